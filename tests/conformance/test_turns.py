"""Rate limits, warm-up and host policies: the reference server's answers, recorded, and this server's.

What is asked of each: loads, by their answers; what the models note of themselves; statistics and metrics; and the
order in which models that share a resource execute. `python -m tests.conformance.test_turns` records the reference
server's answers anew.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conformance.servers import (
    asked_again,
    reference_script,
    running_despina,
    running_in_process,
    running_reference,
)

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "turns.json"
EXPLICIT = ["--model-control-mode=explicit"]
RATES = ["--rate-limit=execution_count"]
LIMITS = [
    "R1:3", "r2:9:1", "r3:9:1", "r3:5:0", "r4:2", "r4:5:0", "r5:9", "r5:3:0", "r6:2:0", "r6:5:1", "r7:2:0", "r7:3",
    "r11:1", "r12:2", "r13:9", "r13:3",
]  # fmt: skip
POLICIES = [
    "ok,cpu-cores=0-0", "one,cpu-cores=1", "bad,cpu-cores=x-y", "back,cpu-cores=1-0", "far,cpu-cores=500-501",
    "numabad,numa-node=x", "cpu,cpu-cores=0-0", "model,cpu-cores=0-0", "negative,cpu-cores=-1-1",
]  # fmt: skip
KNOWN_DIFFERENCES = {
    "host policies: back": "the reason that it gives is Success",
    "host policies: far": "the reason that it gives is Success",
    "warm-up: strings cut off": "24.10 lets the Python backend look; newer releases check as for any request",
}


def group(resources="", *, priority=0, more="kind: KIND_CPU"):
    return f"instance_group [{{ {more} count: 1 rate_limiter {{ {resources} priority: {priority} }} }}]"


def of(name, count, where=""):
    return f'resources {{ name: "{name}" count: {count} {where} }}'


GLOBAL = "global: true"
NEEDS = {
    "own": group(of("R1", 4)),
    "more": group(of("R1", 10)),
    "global": group(of("R1", 2, GLOBAL)),
    "both": group(of("bb", 1) + of("bb", 3, GLOBAL)),
    "twice": group(of("dd", 1) + of("dd", 3)),
    "none": group(of("z", 0)),
    "nameless": group(of("", 1)),
    "plain": "instance_group [{ kind: KIND_CPU }]",
}
LIMITED = {
    "upper": group(of("R1", 4)),
    "lower": group(of("r1", 4)),
    "other device": group(of("r2", 4)),
    "two devices": group(of("r3", 4)),
    "more on this": group(of("r4", 4)),
    "less on this": group(of("r5", 4)),
    "global": group(of("r6", 4, GLOBAL)),
    "global less": group(of("r7", 4, GLOBAL)),
    "not listed": group(of("r9", 4)),
    "one of two": group(of("r11", 1) + of("r12", 3)),
    "last said": group(of("r13", 4)),
}
ORDERED = {
    "one": group(of("S", 1, GLOBAL), priority=1),
    "two": group(of("S", 1, GLOBAL), priority=2),
    "four": group(of("S", 1, GLOBAL), priority=4),
    "large": group(of("H", 2, GLOBAL), priority=1),
    "small": group(of("H", 1, GLOBAL), priority=1),
    "late": group(of("H", 1, GLOBAL), priority=1),
}
PLACED = {
    name: f'instance_group [{{ kind: KIND_CPU host_policy: "{name}" }}]'
    for name in ("ok", "one", "bad", "back", "far", "numabad", "negative")
} | {"by kind": "instance_group [{ kind: KIND_CPU }]", "by model": "instance_group [{ kind: KIND_MODEL }]"}


def sample(kind, *, size=1, count=0, datatype="TYPE_INT32", dims="dims: 1", key="IN", name="s"):
    given = f'inputs {{ key: "{key}" value: {{ data_type: {datatype} {dims} {kind} }} }}'
    return f'model_warmup [{{ name: "{name}" batch_size: {size} count: {count} {given} }}]'


ZERO, FILE = "zero_data: true", 'input_data_file: "file"'
WARMED = {
    "one": {"more": sample(ZERO)},
    "three": {"more": sample(ZERO, size=3)},
    "three, twice": {"more": sample(ZERO, size=3, count=2)},
    "flat": {"more": sample(ZERO), "rows": 0},
    "skipped": {"more": sample(ZERO, size=0, count=3)},
    "two samples": {"more": sample(ZERO, name="a") + sample(ZERO, size=2, name="b")},
    "one name": {"more": sample(ZERO) + sample(ZERO)},
    "two instances": {"more": sample(ZERO, size=2), "instances": 2},
    "fails": {"more": sample(FILE, size=2, name="bad"), "file": b"\xff" * 4},
    "variable": {"more": sample(ZERO, dims="dims: -1"), "dims": "-1"},
    "no data": {"more": sample("")},
    "of nobody": {"more": sample(ZERO, key="NOPE")},
    "no inputs": {"more": 'model_warmup [{ name: "s" batch_size: 1 }]'},
    "another datatype": {"more": sample(ZERO, datatype="TYPE_FP32")},
    "no datatype": {"more": sample(ZERO, datatype="TYPE_INVALID")},
    "another shape": {"more": sample(ZERO, dims="dims: 3")},
    "another rank": {"more": sample(ZERO, dims="dims: [1, 1]")},
    "no dims": {"more": sample(ZERO, dims="")},
    "empty": {"more": sample(ZERO, dims="dims: 0"), "dims": "-1"},
    "short file": {"more": sample(FILE, dims="dims: 2"), "dims": "2", "file": b"\1\0\0\0"},
    "long file": {"more": sample(FILE), "file": b"\1\0\0\0\2\0\0\0"},
    "no file": {"more": sample(FILE)},
    "not zero": {"more": sample("zero_data: false")},
    **{
        f"strings {name}": {
            "more": sample(kind, size=2, datatype="TYPE_STRING", dims="dims: 2"),
            "datatype": "TYPE_STRING",
            "dims": "2",
            "file": content,
        }
        for name, kind, content in (
            ("zero", ZERO, b""),
            ("random", "random_data: true", b""),
            ("of a file", FILE, b"\3\0\0\0abc\2\0\0\0de"),
            ("cut off", FILE, b"\3\0\0\0abc\2\0\0\0"),
        )
    },
    **{
        f"random {name}": {
            "more": sample("random_data: true", datatype=f"TYPE_{name}", dims="dims: 4"),
            "datatype": f"TYPE_{name}",
            "dims": "4",
        }
        for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT64", "FP16", "FP32", "FP64")
    },
}


def write(folder, name, more, *, rows=4, datatype="TYPE_INT32", dims="1", instances=0, file=b""):
    path = folder / "models" / name.replace(" ", "_").replace(",", "")
    (path / "1").mkdir(parents=True)
    shutil.copy(HERE / "noting_model.py", path / "1" / "model.py")
    if file:
        (path / "warmup").mkdir()
        (path / "warmup" / "file").write_bytes(file)
    if "instance_group" not in more:
        more += f"instance_group [{{ kind: KIND_CPU count: {instances or 1} }}]"
    tensor = f"data_type: {datatype} dims: [{dims}]"
    (path / "config.pbtxt").write_text(
        f'backend: "python"\nmax_batch_size: {rows}\n'
        f'input [{{ name: "IN" {tensor} }}]\noutput [{{ name: "OUT" {tensor} }}]\n{more}\n'
    )


def models(folder, wanted):
    """A repository of these models."""
    for name, text in wanted.items():
        write(folder, name, **({"more": text, "rows": 0} if isinstance(text, str) else text))
    return folder / "models"


class Asked:
    """A server, by HTTP, and what its models have noted."""

    def __init__(self, server, folder):
        self.url = f"http://127.0.0.1:{server.http_port}"
        self.metrics_url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        self.repository = server.repository
        self.notes_file = folder / "notes.jsonl"

    def post(self, path, body=b""):
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data=body), timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def load(self, name):
        """What the server says, without what is particular to where it runs."""
        path = name.replace(" ", "_").replace(",", "")
        said = self.post(f"/v2/repository/models/{path}/load")
        said = said.replace(str(self.repository), "")
        return re.sub(r"\(\d+\): execute", "(n): execute", said)

    def notes(self):
        text = self.notes_file.read_text() if self.notes_file.exists() else ""
        self.notes_file.write_text("")
        return [json.loads(line) for line in text.splitlines()]

    def counted(self, name):
        """The counts of a model's statistics, and of its metrics."""
        path = name.replace(" ", "_").replace(",", "")
        try:
            with urllib.request.urlopen(f"{self.url}/v2/models/{path}/stats", timeout=60) as answer:
                (stats,) = json.load(answer)["model_stats"]
        except urllib.error.HTTPError:
            return None
        with urllib.request.urlopen(self.metrics_url, timeout=60) as answer:
            page = answer.read().decode()
        families = ("nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count")
        return {
            "inference_count": stats["inference_count"],
            "execution_count": stats["execution_count"],
            "counts": {name: value["count"] for name, value in stats["inference_stats"].items()},
            "batches": {str(one["batch_size"]): one["compute_infer"]["count"] for one in stats["batch_stats"]},
            "metrics": {
                family: float(re.search(rf'^{family}{{model="{path}",version="1"}} (.*)$', page, re.M)[1])
                for family in families
            },
        }

    def order(self, plan):
        """Executes (model, milliseconds), asked one after the other, together; who was executed, in that order."""
        self.notes()

        def ask(model, wait_ms):
            tensor = {"name": "IN", "datatype": "INT32", "shape": [1], "data": [wait_ms]}
            self.post(f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode())

        threads = [threading.Thread(target=ask, args=one) for one in plan]
        for thread in threads:
            thread.start()
            time.sleep(0.01)
        for thread in threads:
            thread.join()
        executed = sorted((note for note in self.notes() if note["what"] == "executed"), key=lambda note: note["began"])
        return executed


def names(executed):
    return " ".join(note["instance"].partition("_")[0] for note in executed)


def loads(asked, wanted):
    return {name: asked.load(name) for name in wanted}


def orders(asked):
    """The order of executions for one resource: by executions and priority, and not overtaking."""
    for model in ORDERED:
        asked.order([(model, 1)])
    found = {
        "one and two": asked.order([("one", 250), *[("two", 20), ("one", 20)] * 7, ("two", 20)]),
        "one and four": asked.order([("one", 250), *[("four", 20), ("one", 20)] * 7, ("four", 20)]),
        "small, large, late": asked.order([("small", 250), ("large", 20), ("late", 20)]),
    }
    for executed in found.values():
        for one, other in pairwise(executed):
            assert one["ended"] <= other["began"], "they share a resource of one"
    return {name: names(executed) for name, executed in found.items()}


def warmed(asked):
    found = {}
    for name in WARMED:
        asked.notes()
        said = asked.load(name)
        requests = [
            {key: note[key] for key in ("of", "shape", "dtype", "values", "id")}
            for note in asked.notes()
            if note["what"] == "request"
        ]
        if name.startswith("random"):
            for request in requests:
                request["values"] = len(request["values"])
        found[name] = {"load": said, "requests": requests, "counted": asked.counted(name)}
    return found


def placed(asked):
    """What the loads say, and whether the model runs on core 0 only."""
    found = {}
    for name in PLACED:
        asked.notes()
        said = asked.load(name)
        found[name] = {"load": said, "alone": [note["cores"] == [0] for note in asked.notes() if not said]}
    return found


SUITES = {
    "needs": (NEEDS, [*EXPLICIT, *RATES], lambda asked: loads(asked, NEEDS)),
    "limits": (
        LIMITED,
        [*EXPLICIT, *RATES, *(f"--rate-limit-resource={limit}" for limit in LIMITS)],
        lambda asked: loads(asked, LIMITED),
    ),
    "off": (LIMITED, [*EXPLICIT, "--rate-limit-resource=r1:1"], lambda asked: loads(asked, ["lower", "upper"])),
    "orders": (ORDERED, RATES, orders),
    "warm-up": (WARMED, EXPLICIT, warmed),
    "host policies": (PLACED, [*EXPLICIT, *(f"--host-policy={policy}" for policy in POLICIES)], placed),
}


def answers(running, suite, folder):
    wanted, options, ask = SUITES[suite]
    folder.mkdir()
    with running(models(folder, wanted), folder, options) as server:
        return ask(Asked(server, folder))


@pytest.mark.parametrize("suite", SUITES)
def test_answers_equal_the_reference_servers(suite, tmp_path):
    """Goal: the same answers, counts and orders as recorded, but for what is known and meant; and that differs."""
    running = running_despina if suite == "host policies" else running_in_process  # a process is placed as a whole
    recorded = json.loads(GOLDEN.read_text())[suite]
    if suite == "orders":  # of requests that must all have come while the first of them executes
        ours = asked_again(lambda folder: answers(running, suite, folder / "ours"), recorded, tmp_path)
    else:
        ours = answers(running, suite, tmp_path / "ours")
    assert recorded.keys() == ours.keys()
    differing = {f"{suite}: {name}" for name in ours if ours[name] != recorded[name]}
    known = {name for name in KNOWN_DIFFERENCES if name.startswith(f"{suite}: ")}
    assert differing == known, {
        name: (ours[name.partition(": ")[2]], recorded[name.partition(": ")[2]]) for name in differing ^ known
    }


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
@pytest.mark.parametrize("suite", [suite for suite in SUITES if suite != "warm-up"])
def test_records_are_what_the_reference_server_says(suite, tmp_path):
    """Goal: the records are the reference server's. Method: ask it again. Not for warm-up, of which it dies now and
    then, a minute at a time."""
    recorded = json.loads(GOLDEN.read_text())[suite]

    def ask(folder):
        return answers(running_reference, suite, folder / "theirs")

    assert asked_again(ask, recorded, tmp_path) == recorded


def record(folder: Path) -> None:
    """Writes what the reference server says."""
    said = {suite: answers(running_reference, suite, folder / suite.replace(" ", "_")) for suite in SUITES}
    GOLDEN.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        record(Path(name))
