"""One wish of a shell's user, to a running server: read what was typed, ask, print."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
import numpy as np
import orjson

from ...schema.datatype import BY_NAME
from ...schema.fault import Fault
from ...schema.tensor import Tensor
from .client.calls import Ask, BadCall, Signature
from .infer_values import BadInput, converted, plain, split_input, tensor_of, text_of
from .sheet import sheet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .client.calls import Calls
    from .client.options import Server


@attrs.frozen(kw_only=True)
class Wish:
    """As typed."""

    model: str
    version: str
    inputs: Sequence[str]
    request: str
    """A file with a request in JSON; - is standard input."""
    outputs: Sequence[str]
    id: str
    parameters: Sequence[str]
    repeat: int
    as_json: bool


def infer(server: Server, wish: Wish) -> int:
    """Asks for the model's inputs, sends the request and prints the outputs. Raises click.ClickException."""
    try:
        with server.calls() as calls:
            if wish.inputs and wish.request:
                raise BadCall("--input and --request: give one of them")
            signature = calls.signature(wish.model, wish.version)
            ask = _ask(wish, signature)
            times_s: list[float] = []
            for number in range(wish.repeat):
                began = time.perf_counter()
                for outputs in _answers(calls, wish, ask, signature):
                    if number == 0:
                        _print(outputs, as_json=wish.as_json)
                times_s.append(time.perf_counter() - began)
            if wish.repeat > 1:
                _print_times(times_s, as_json=wish.as_json)
    except (BadInput, Fault) as problem:
        raise click.ClickException(str(problem)) from None
    return 0


def _answers(calls: Calls, wish: Wish, ask: Ask, signature: Signature) -> Iterator[Sequence[Tensor]]:
    if signature.decoupled:
        yield from calls.stream(wish.model, wish.version, ask)
    else:
        yield calls.infer(wish.model, wish.version, ask)


def _ask(wish: Wish, signature: Signature) -> Ask:
    parameters = dict(_parameter(text) for text in wish.parameters)
    if not wish.request:
        return Ask(
            inputs=_inputs(wish.inputs, signature.inputs), outputs=wish.outputs, id=wish.id, parameters=parameters
        )
    head = _read_request(wish.request)
    outputs = wish.outputs or [str(item["name"]) for item in head.get("outputs", ())]
    return Ask(
        inputs=[_written(item) for item in head["inputs"]],
        outputs=outputs,
        id=wish.id or str(head.get("id", "")),
        parameters={**head.get("parameters", {}), **parameters},
    )


def _read_request(file: str) -> dict[str, Any]:
    """Raises BadCall for what is no request."""
    shown = "standard input" if file == "-" else file
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        head = orjson.loads(text)
    except OSError as error:
        raise BadCall(f"--request {shown}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise BadCall(f"--request {shown}:{error.lineno}:{error.colno}: {error.msg}") from None
    inputs = head.get("inputs") if isinstance(head, dict) else None
    wanted = {"name", "shape", "datatype", "data"}
    if not isinstance(inputs, list) or not all(isinstance(item, dict) and wanted <= item.keys() for item in inputs):
        raise BadCall(f"--request {shown}: expected an object with `inputs`, each with name, shape, datatype and data")
    return dict(head)


def _written(item: Mapping[str, Any]) -> Tensor:
    """An input as the protocol writes it in JSON. Raises BadInput."""
    name, datatype = item["name"], item["datatype"]
    if datatype not in BY_NAME:
        raise BadInput(f"input '{name}': datatype {datatype} is not known here")
    try:
        array = converted(datatype, np.array(item["data"], dtype=object if datatype == "BYTES" else None))
        return Tensor.of(name, array.reshape([int(size) for size in item["shape"]]), datatype)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"input '{name}': {error}") from None


def _parameter(text: str) -> tuple[str, bool | int | float | str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadCall(f"--parameter is NAME=VALUE, got '{text}'")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _inputs(texts: Sequence[str], known_inputs: Sequence[tuple[str, str, list[int]]]) -> list[Tensor]:
    """The tensors to send, each checked against the model's inputs. Inputs left out are the server's to complain of."""
    known = {name: (datatype, shape) for name, datatype, shape in known_inputs}
    tensors: dict[str, Tensor] = {}
    for text in texts:
        name, shape, value = split_input(text)
        if name not in known:
            raise BadInput(f"input '{name}' is unknown; the model's inputs are {_described(known_inputs)}")
        if name in tensors:
            raise BadInput(f"input '{name}' is given twice")
        datatype, expected = known[name]
        tensors[name] = tensor_of(name, datatype, expected, value, shape)
    if not texts and known_inputs:
        raise BadInput(f"no --input given; the model's inputs are {_described(known_inputs)}")
    return list(tensors.values())


def _described(inputs: Sequence[tuple[str, str, list[int]]]) -> str:
    return ", ".join(f"{name} ({datatype} {shape})" for name, datatype, shape in inputs)


def _print(answers: Sequence[Tensor], *, as_json: bool) -> None:
    if as_json:
        values = {
            tensor.name: {"datatype": tensor.datatype, "shape": list(tensor.shape), "data": plain(tensor)}
            for tensor in answers
        }
        print(orjson.dumps(values).decode(), flush=True)
        return
    for tensor in answers:
        print(text_of(tensor), flush=True)


def _print_times(times_s: Sequence[float], *, as_json: bool) -> None:
    ordered = sorted(times_s)
    figures = {
        "first": times_s[0],
        "least": ordered[0],
        "mean": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[max(0, -(-len(ordered) * 99 // 100) - 1)],
        "most": ordered[-1],
    }
    if as_json:
        figures_ms = {name: round(seconds * 1e3, 3) for name, seconds in figures.items()}
        print(orjson.dumps({"requests": len(times_s), "milliseconds": figures_ms}).decode())
        return
    print()
    print(
        sheet(
            ("requests", *(f"{name} ms" for name in figures)),
            [(str(len(times_s)), *(f"{seconds * 1e3:.2f}" for seconds in figures.values()))],
        )
    )
