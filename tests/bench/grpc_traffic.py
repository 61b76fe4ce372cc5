"""A question of traffic.py as a gRPC call, and the check of its answer."""

from __future__ import annotations

import struct
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench.cases import DTYPES, datatype, delimited, fields, grpc_framed, varint, varints
from tests.bench.load import Ask, WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.traffic import Question, Row

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"
LISTS = {"INT32": 2, "FP32": 6}
"""By datatype: the field of typed contents that has its elements."""
OWN_FIELDS = ("traceparent", "x-request-id")
"""Headers that gRPC clients let their callers choose."""


class Call(Ask):
    """One call: the request is its message, with the prefix. `own` is the part of its header block that is the caller's
    own."""

    __slots__ = ("own",)

    def __init__(self, request: bytes, verify: Callable[[bytes, memoryview], None], own: bytes = b"") -> None:
        super().__init__(request, verify)
        self.own = own


@cache
def grpc_asks(row: Row, host: str) -> tuple[str, Sequence[Call]]:
    """The path, and the row's questions in order; always the same ones for one host, which remember their right
    answers."""
    if row.is_health:
        return SERVICE + "ServerLive", [Call(grpc_framed(b""), check_live)]
    questions = row.questions()
    return INFER, [Call(grpc_framed(written(one)), partial(check, one), own_fields(one)) for one in questions]


def own_fields(question: Question) -> bytes:
    """Literals that are not to be indexed, as gRPC's C core sends what its callers have chosen."""
    return b"".join(literal(name, value) for name, value in question.headers if name in OWN_FIELDS)


def literal(name: str, value: str) -> bytes:
    """A short header as HPACK has it, without a place in the table."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def written(question: Question) -> bytes:
    """The message."""
    parts = [delimited(1, question.model.encode())]
    if question.id:
        parts.append(delimited(3, question.id.encode()))
    for name, value in question.parameters.items():
        parts.append(delimited(4, delimited(1, name.encode()) + delimited(2, parameter(name, value))))
    raw = []
    for name, values in question.inputs.items():
        described = delimited(1, name.encode()) + delimited(2, datatype(values).encode())
        described += delimited(3, b"".join(varint(dimension) for dimension in values.shape))
        if question.as_numbers:
            described += delimited(5, delimited(LISTS[datatype(values)], packed(values)))
        else:
            raw.append(delimited(7, values.tobytes()))
        parts.append(delimited(5, described))
    parts += [delimited(6, delimited(1, name.encode())) for name in question.outputs]
    return b"".join(parts + raw)


def parameter(name: str, value: Any) -> bytes:
    """An InferParameter."""
    if isinstance(value, str):
        return delimited(3, value.encode())
    number = 1 if isinstance(value, bool) else 5 if name == "priority" else 2
    return varint(number << 3) + varint(int(value))


def packed(values: np.ndarray) -> bytes:
    """A tensor's elements as a packed list."""
    if values.dtype == np.float32:
        return values.tobytes()
    return b"".join(varint(element & 0xFFFFFFFFFFFFFFFF) for element in values.ravel().tolist())


def check_live(_: bytes, message: memoryview) -> None:
    """Raises WrongAnswer unless the server says that it is live."""
    if message != b"\x08\x01":
        raise WrongAnswer(f"not live: {bytes(message)!r}")


def check(question: Question, _: bytes, message: memoryview) -> None:
    """Raises WrongAnswer unless this is the right answer."""
    try:
        told = {1: b"", 3: b""}
        described, raw = [], []
        for number, value in fields(message):
            if number == 5:
                members = dict(fields(value))
                shape = [dimension for dimension, _ in varints(members[3])]
                described.append((bytes(members[1]).decode(), DTYPES[bytes(members[2]).decode()], shape))
            elif number == 6:
                raw.append(value)
            else:
                told[number] = bytes(value)
        found = {
            name: np.frombuffer(contents, dtype).reshape(shape)
            for (name, dtype, shape), contents in zip(described, raw, strict=True)
        }
        complaint = question.complaint(found, told[3].decode(), told[1].decode())
    except (KeyError, ValueError, IndexError, struct.error) as error:
        complaint = repr(error)
    if complaint is not None:
        raise WrongAnswer(f"{complaint}: {bytes(message[:300])!r}")
