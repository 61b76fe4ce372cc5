"""Ensembles of Python models that both servers can serve, those that fit and those that do not."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent

NUMBER, TEXT = "TYPE_INT32", "TYPE_STRING"
LABELLED = 'output [{ name: "%s" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }]\n'
DECOUPLED = "model_transaction_policy { decoupled: true }\n"


def tensors(kind: str, named: str) -> str:
    """`named` is like "A B? C:TYPE_STRING[-1,1]": a question mark makes it optional."""
    text = ""
    for word in named.split():
        name, _, dims = word.partition("[")
        name, _, datatype = name.partition(":")
        optional = "optional: true " if name.endswith("?") else ""
        dims = dims.rstrip("]") or "1"
        text += f'{kind} [{{ name: "{name.rstrip("?")}" data_type: {datatype or NUMBER} dims: [{dims}] {optional}}}]\n'
    return text


def model_text(reads: str, writes: str, batch: int = 4, more: str = "") -> str:
    """The configuration of a Python model."""
    text = f'backend: "python"\nmax_batch_size: {batch}\n{more}{tensors("input", reads)}{tensors("output", writes)}'
    return text + "instance_group [{ kind: KIND_CPU count: 1 }]\n"


def ensemble_text(reads: str, writes: str, *steps: str, batch: int = 4, more: str = "") -> str:
    """The configuration of an ensemble. A step is like "model A=x B=y > OUTPUT=z", or "model:1 ..."."""
    text = f'platform: "ensemble"\nmax_batch_size: {batch}\n{more}{tensors("input", reads)}{tensors("output", writes)}'
    text += "ensemble_scheduling {\n"
    for step in steps:
        left, right = step.split(">")
        named, *inputs = left.split()
        name, _, version = named.partition(":")
        text += f'step {{ model_name: "{name}" model_version: {version or -1}'
        for kind, pairs in (("input", inputs), ("output", right.split())):
            for key, value in (pair.split("=") for pair in pairs):
                text += f' {kind}_map {{ key: "{key}" value: "{value}" }}'
        text += " }\n"
    return text + "}\n"


def add(source: str, target: str, model: str = "add") -> str:
    return f"{model} INPUT={source} > OUTPUT={target}"


MODELS = {
    "add": model_text("INPUT", "OUTPUT"),
    "whole": model_text("INPUT", "OUTPUT", 0),
    "flat": model_text("INPUT[-1,1]", "OUTPUT[-1,1]", 0),
    "tell": model_text("INPUT", f"TOLD:{TEXT}"),
    "split": model_text("INPUT", "ONE TWO"),
    "join": model_text("A B?", "OUTPUT"),
    "refuse": model_text("INPUT", "OUTPUT"),
    "count": model_text("INPUT", "OUTPUT", more=DECOUPLED),
    "score": model_text("INPUT", "") + LABELLED % "SCORES",
}
ENSEMBLES = {
    "chain": ensemble_text("IN", "OUT", add("IN", "x"), add("x", "OUT")),
    "nested": ensemble_text("IN", "OUT", "chain IN=IN > OUT=x", add("x", "y"), "chain IN=y > OUT=OUT"),
    "diamond": ensemble_text(
        "IN", "OUT", "join A=y B=z > OUTPUT=OUT", add("x", "y"), "chain IN=x > OUT=z", add("IN", "x")
    ),
    "pruned": ensemble_text("IN", "X Y Z", add("IN", "X"), add("X", "Y"), "refuse INPUT=X > OUTPUT=Z"),
    "optional": ensemble_text("IN MAY?", "OUT", "join A=IN B=MAY > OUTPUT=OUT"),
    "half": ensemble_text("IN", "OUT REST", "split INPUT=IN > ONE=x TWO=REST", "join A=x B=REST > OUTPUT=OUT"),
    "faulty": ensemble_text("IN", "OUT", add("IN", "x"), "refuse INPUT=x > OUTPUT=OUT"),
    "deep": ensemble_text("IN", "OUT", "faulty IN=IN > OUT=x", add("x", "OUT")),
    "adapt": ensemble_text("IN", "OUT", add("IN", "x", "whole"), add("x", "y"), add("y", "OUT", "whole"), batch=0),
    "mixed": ensemble_text("IN", "OUT", add("IN", "x"), add("x", "y", "flat"), add("y", "OUT")),
    "told": ensemble_text("IN", f"TOLD:{TEXT}", add("IN", "x"), "tell INPUT=x > TOLD=TOLD"),
    "counted": ensemble_text("IN", "OUT", add("IN", "x", "count"), add("x", "OUT")),
    "late": ensemble_text("IN", "OUT", add("IN", "x"), add("x", "OUT", "count")),
    "around": ensemble_text("IN", "OUT", "counted IN=IN > OUT=x", add("x", "OUT")),
    "labelled": ensemble_text("IN", "OUT:TYPE_FP32[3]", add("IN", "x"), "score INPUT=x > SCORES=OUT"),
    "stopped": ensemble_text("IN", "OUT", add("IN", "x", "count"), add("x", "OUT", "refuse")),
}
BROKEN = {
    "missing": ensemble_text("IN", "OUT", add("IN", "OUT", "nowhere")),
    "circle_a": ensemble_text("IN", "OUT", "circle_b IN=IN > OUT=OUT"),
    "circle_b": ensemble_text("IN", "OUT", "circle_a IN=IN > OUT=OUT"),
    "of_broken": ensemble_text("IN", "OUT", "missing IN=IN > OUT=OUT"),
    "other_version": ensemble_text("IN", "OUT", add("IN", "OUT", "add:7")),
    "batch": ensemble_text("IN", "OUT", add("IN", "OUT"), batch=8),
    "no_input": ensemble_text("IN", "OUT", "add INPUT=IN OTHER=IN > OUTPUT=OUT"),
    "no_output": ensemble_text("IN", "OUT", "add INPUT=IN > OTHER=OUT"),
    "unmapped": ensemble_text("IN", "OUT", "join B=IN > OUTPUT=OUT"),
    "datatype": ensemble_text("IN:TYPE_FP32", "OUT", add("IN", "OUT")),
    "between": ensemble_text("IN", "OUT", "tell INPUT=IN > TOLD=x", add("x", "OUT")),
    "shape": ensemble_text("IN[2]", "OUT", add("IN", "OUT")),
    "wild": ensemble_text("IN[-1]", "OUT", add("IN", "OUT")),
    "rank": ensemble_text("IN[1,1]", "OUT", add("IN", "OUT"), batch=0),
    "two_streams": ensemble_text("IN", "OUT", add("IN", "x", "count"), "join A=IN B=x > OUTPUT=OUT"),
    "unused": ensemble_text("IN MORE", "OUT", add("IN", "OUT")),
    "unwritten": ensemble_text("IN", "OUT", "join A=IN B=nothing > OUTPUT=OUT"),
    "twice": ensemble_text("IN", "OUT", add("IN", "OUT"), add("IN", "OUT")),
    "dangling": ensemble_text("IN", "OUT", add("IN", "OUT"), add("OUT", "x")),
    "no_steps": ensemble_text("IN", "OUT"),
    "groups": ensemble_text("IN", "OUT", add("IN", "OUT"), more="instance_group [{ count: 1 }]\n"),
    "of_bad": ensemble_text("IN", "OUT", add("IN", "OUT", "bad")),
    "bad": 'backend: "python"\nmax_batch_size: 4\n' + tensors("input", "INPUT") + tensors("output", "OUTPUT"),
}


def write(folder: Path, configs: dict[str, str]) -> Path:
    """A repository of models and ensembles in `folder`."""
    for name, text in configs.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(text)
        if "label_filename" in text:
            (version.parent / "labels.txt").write_text("cat\ndog\nbird\n")
        if "platform" not in text:
            shutil.copy(HERE / "ensemble_model.py", version / "model.py")
    return folder / "models"
