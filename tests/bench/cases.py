"""What the benchmark asks: named requests as prebuilt bytes for either protocol, and the check of an answer.

A case knows its inputs and, for exact models, its outputs. A model that computes with floats is checked against the
first answer, within a tolerance: batching may change the last bits.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import attrs
import numpy as np

DTYPES: dict[str, type] = {"INT32": np.int32, "FP32": np.float32}
SIZES = {"1 KiB": 2**10, "64 KiB": 2**16, "1 MiB": 2**20, "16 MiB": 2**24}


@attrs.define
class Case:
    """One kind of request. `outputs` holds None until the first answer of an inexact model is known."""

    name: str
    model: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray | None]
    of_sequences: bool = False
    """Each caller's requests are a sequence, which begins with its first and goes on for the length of the run."""

    def check(self, got: dict[str, np.ndarray]) -> str | None:
        """What is wrong with an answer, or None."""
        if got.keys() != self.outputs.keys():
            return f"{self.name}: outputs {sorted(got)}, expected {sorted(self.outputs)}"
        for name, expected in self.outputs.items():
            values = got[name]
            if expected is None:
                self.outputs[name] = values.copy()
            elif values.shape != expected.shape or not alike(values, expected):
                return f"{self.name}: output {name} is wrong"
        return None


def alike(values: np.ndarray, expected: np.ndarray) -> bool:
    """The same, but for the last bits of floats."""
    if expected.dtype == object:
        return np.array_equal(values, expected)
    return np.allclose(values, expected, rtol=1e-3, atol=1e-4)


def known_cases() -> dict[str, Case]:
    """Every case by name; sizes are those of one tensor."""
    random = np.random.default_rng(7)
    left, right = (random.integers(0, 1000, (1, 16)).astype(np.int32) for _ in range(2))
    rows = {"INPUT0": left, "INPUT1": right}
    sums: dict[str, np.ndarray | None] = {"OUTPUT0": left + right, "OUTPUT1": left - right}
    twice: dict[str, np.ndarray | None] = {"OUTPUT0": 2 * left, "OUTPUT1": 2 * right}
    cases = [
        Case("ONNX add/sub", "onnx_addsub", rows, dict(sums)),
        Case("ONNX add/sub, no batching", "onnx_addsub_single", rows, dict(sums)),
        Case("ensemble of ONNX add/sub", "ens_onnx", rows, dict(twice)),
    ]
    for label, suffix in (("", ""), (", inline", "_inline")):  # on threads of their own; on our trio thread
        sequence = f"sequence of Python add/sub, {{}}{label}".format
        cases += [
            Case(f"Python add/sub{label}", f"simple{suffix}", rows, dict(sums)),
            Case(sequence("oldest"), f"seq_oldest{suffix}", rows, dict(sums), of_sequences=True),
            Case(sequence("direct"), f"seq_direct{suffix}", rows, dict(sums), of_sequences=True),
            Case(f"ensemble of Python add/sub{label}", f"ens_simple{suffix}", rows, dict(twice)),
        ]
    for label, size in SIZES.items():
        values = random.standard_normal((1, size // 4)).astype(np.float32)
        cases.append(Case(f"identity {label}", "identity_fp32", {"INPUT0": values}, {"OUTPUT0": values}))
    cases += isolated_cases(random)
    row = random.standard_normal((1, 256)).astype(np.float32)
    cases.append(Case("ONNX MLP, batching", "onnx_mlp", {"x": row}, {"y": None}))
    image = random.standard_normal((1, 3, 224, 224)).astype(np.float32)
    cases.append(Case("ONNX conv net", "onnx_conv", {"input": image}, {"output": None}))
    return {case.name: case for case in cases}


def isolated_cases(random: np.random.Generator) -> list[Case]:
    """Python models in processes of their own."""
    cases = []
    for label, size in SIZES.items():
        left, right = (random.standard_normal((1, size // 4)).astype(np.float32) for _ in range(2))
        cases.append(Case(f"isolated identity {label}", "isolated_identity", {"INPUT0": left}, {"OUTPUT0": left}))
        sums: dict[str, np.ndarray | None] = {"OUTPUT0": left + right, "OUTPUT1": left - right}
        cases.append(Case(f"isolated add/sub {label}", "isolated_addsub", {"INPUT0": left, "INPUT1": right}, sums))
    words = [b"w" * length for length in random.integers(0, 30, 64)]
    strings = np.array(words, dtype=object).reshape(1, 64)
    return [*cases, Case("isolated strings", "isolated_strings", {"INPUT0": strings}, {"OUTPUT0": strings})]


def datatype(values: np.ndarray) -> str:
    """The protocol's name of an array's type."""
    return "BYTES" if values.dtype == object else next(name for name, dtype in DTYPES.items() if values.dtype == dtype)


def contents(values: np.ndarray) -> bytes:
    """An array as binary tensor data."""
    if values.dtype != object:
        return values.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in values.ravel())


def array(data: memoryview, kind: str, shape: list[int]) -> np.ndarray:
    """Binary tensor data as an array. Raises ValueError where it does not fit."""
    if kind != "BYTES":
        return np.frombuffer(data, DTYPES[kind]).reshape(shape)
    items, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        items.append(bytes(data[at + 4 : end]))
        at = end
    return np.array([*items, None], dtype=object)[:-1].reshape(shape)


def http_request(case: Case, host: str, sequence_id: int = 0, *, starts: bool = False) -> bytes:
    """A whole HTTP request with binary tensors in and out; one of a sequence if it has an id."""
    inputs = [
        {
            "name": name,
            "shape": values.shape,
            "datatype": datatype(values),
            "parameters": {"binary_data_size": len(contents(values))},
        }
        for name, values in case.inputs.items()
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in case.outputs]
    asked: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    if sequence_id:
        asked["parameters"] = {"sequence_id": sequence_id, "sequence_start": starts, "sequence_end": False}
    head = json.dumps(asked, separators=(",", ":")).encode()
    tail = b"".join(contents(values) for values in case.inputs.values())
    return (
        f"POST /v2/models/{case.model}/infer HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(tail)}\r\n\r\n"
    ).encode() + b"".join([head, tail])


def read_http(head: bytes, body: memoryview) -> dict[str, np.ndarray]:
    """The outputs of an HTTP answer. Raises ValueError if it is not one."""
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    end = int(headers[b"inference-header-content-length"])
    found = {}
    for output in json.loads(bytes(body[:end]))["outputs"]:
        start, end = end, end + output["parameters"]["binary_data_size"]
        found[output["name"]] = array(body[start:end], output["datatype"], output["shape"])
    return found


def grpc_message(case: Case, sequence_id: int = 0, *, starts: bool = False) -> bytes:
    """A ModelInferRequest with raw contents; one of a sequence if it has an id."""
    parts = [delimited(1, case.model.encode())]
    if sequence_id:
        parameters = {
            "sequence_id": b"\x10" + varint(sequence_id),
            "sequence_start": b"\x08" + varint(starts),
            "sequence_end": b"\x08\0",
        }
        parts += [delimited(4, delimited(1, name.encode()) + delimited(2, value)) for name, value in parameters.items()]
    for name, values in case.inputs.items():
        shape = b"".join(varint(dimension) for dimension in values.shape)
        described = delimited(1, name.encode()) + delimited(2, datatype(values).encode()) + delimited(3, shape)
        parts.append(delimited(5, described))
    parts += [delimited(6, delimited(1, name.encode())) for name in case.outputs]
    parts += [delimited(7, contents(values)) for values in case.inputs.values()]
    return b"".join(parts)


def read_grpc(message: memoryview) -> dict[str, np.ndarray]:
    """The outputs of a ModelInferResponse."""
    described: list[tuple[str, str, list[int]]] = []
    contents: list[memoryview] = []
    for number, value in fields(message):
        if number == 5:
            members = dict(fields(value))
            dimensions = [dimension for dimension, _ in varints(members[3])]
            described.append((bytes(members[1]).decode(), bytes(members[2]).decode(), dimensions))
        elif number == 6:
            contents.append(value)
    pairs = zip(described, contents, strict=True)
    return {name: array(raw, kind, shape) for (name, kind, shape), raw in pairs}


def fields(message: memoryview) -> list[tuple[int, Any]]:
    """(number, value) of each field: a view for length-delimited ones, an int for varints."""
    found, at = [], 0
    while at < len(message):
        tag, at = varint_at(message, at)
        value, at = varint_at(message, at)
        if tag & 7 == 2:
            value, at = message[at : at + value], at + value
        elif tag & 7 != 0:
            raise ValueError(f"unexpected wire type {tag & 7}")
        found.append((tag >> 3, value))
    return found


def varints(packed: memoryview) -> list[tuple[int, int]]:
    """(value, end) of each number of a packed field."""
    found, at = [], 0
    while at < len(packed):
        value, at = varint_at(packed, at)
        found.append((value, at))
    return found


def varint_at(data: memoryview, at: int) -> tuple[int, int]:
    """The number at an offset, and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimited(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def grpc_framed(message: bytes) -> bytes:
    """A message behind gRPC's five bytes: not compressed, and its length."""
    return struct.pack(">?I", False, len(message)) + message
