"""A question of traffic.py as an HTTP request, and the check of its answer."""

from __future__ import annotations

import json
import random
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench.cases import DTYPES, datatype
from tests.bench.load import Ask, WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.traffic import Question, Row


@cache
def http_asks(row: Row, host: str) -> Sequence[Ask]:
    """The row's questions, in order; always the same ones, which remember their right answers."""
    if row.is_health:
        return [Ask(f"GET /v2/health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), lambda head, body: None)]
    return [Ask(written(question, host), partial(check, question)) for question in row.questions()]


def written(question: Question, host: str) -> bytes:
    """The whole request."""
    inputs: list[dict[str, Any]] = []
    tail = b""
    for name, values in question.inputs.items():
        described = {"name": name, "shape": values.shape, "datatype": datatype(values)}
        if question.as_numbers:
            described["data"] = values.ravel().tolist()
        else:
            described["parameters"] = {"binary_data_size": values.nbytes}
            tail += values.tobytes()
        inputs.append(described)
    outputs = [{"name": name, "parameters": {"binary_data": question.binary[name]}} for name in question.outputs]
    asked: dict[str, Any] = {"id": question.id} if question.id else {}
    if question.parameters:
        asked["parameters"] = question.parameters
    head = json.dumps({**asked, "inputs": inputs, "outputs": outputs}, separators=(",", ":")).encode()
    fields = [("Host", host), ("Content-Length", str(len(head) + len(tail)))]
    if question.as_numbers:
        fields.append(("Content-Type", "application/json"))
    else:
        fields.append(("Content-Type", "application/octet-stream"))
        fields.append(("Inference-Header-Content-Length", str(len(head))))
    fields += question.headers
    if question.shuffle is not None:
        dice = random.Random(question.shuffle)
        dice.shuffle(fields)
        if dice.random() < 0.5:
            fields = [(name.lower(), value) for name, value in fields]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"POST /v2/models/{question.model}/infer HTTP/1.1\r\n{lines}\r\n".encode() + head + tail


def check(question: Question, head: bytes, body: memoryview) -> None:
    """Raises WrongAnswer unless this is the right answer."""
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    end = int(headers.get(b"inference-header-content-length", len(body)))
    complaint = None
    try:
        told = json.loads(bytes(body[:end]))
        found = {}
        for output in told["outputs"]:
            dtype = DTYPES[output["datatype"]]
            size = output.get("parameters", {}).get("binary_data_size")
            if (size is not None) is not question.binary[output["name"]]:
                complaint = f"output {output['name']} as bytes: {size is not None}"
            if size is None:
                values = np.array(output["data"], dtype)
            else:
                values = np.frombuffer(body[end : end + size], dtype)
                end += size
            found[output["name"]] = values.reshape(output["shape"])
        complaint = complaint or question.complaint(found, told.get("id", ""), told["model_name"])
        if complaint is None and end != len(body):
            complaint = "bytes are left over"
    except (KeyError, ValueError, IndexError) as error:
        complaint = repr(error)
    if complaint is not None:
        raise WrongAnswer(f"{complaint}: {head[:200]!r} {bytes(body[:300])!r}")
