"""What bystanders.py asks over gRPC: a small request over and over, and large ones of every kind."""

from __future__ import annotations

import contextlib
import itertools
import select
import struct
import time
from typing import TYPE_CHECKING, Final

import attrs

from tests.bench.cases import delimited, fields, grpc_framed, varint
from tests.bench.grpc_caller import Blocks, GrpcCaller
from tests.bench.grpc_traffic import INFER, Call
from tests.bench.load import WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S: Final = 120.0
_BLOCKS: Final = Blocks()
SMALL: Final = struct.pack("<4f", 1, 2, 3, 4)


@attrs.frozen
class Message:
    """An infer request, with its prefix, and how many bytes its answer has at least."""

    request: bytes
    answer_bytes_min: int


def written(model: str, datatype: str, count: int, *, raw: bytes = b"", typed: bytes = b"") -> bytes:
    """A ModelInferRequest of one input with its elements as bytes, or in a list (a field of InferTensorContents)."""
    described = delimited(1, b"INPUT0") + delimited(2, datatype.encode()) + delimited(3, varint(count))
    if typed:
        described += delimited(5, typed)
    message = delimited(1, model.encode()) + delimited(5, described)
    return message + delimited(7, raw) if raw else message


def message(model: str, datatype: str, count: int, *, raw: bytes = b"", typed: bytes = b"", least: int = 0) -> Message:
    """The same, ready to be sent."""
    return Message(grpc_framed(written(model, datatype, count, raw=raw, typed=typed)), least or len(raw))


def floats() -> list[Message]:
    """57 MiB of them in a list."""
    count = 57 * 2**20 // 4
    return [message("numbers", "FP32", count, typed=delimited(6, bytes(4 * count)), least=4 * count)]


def integers() -> list[Message]:
    """57 MiB of them in a list, of four bytes each there and in the tensor."""
    count = 57 * 2**20 // 4
    return [message("integers", "INT32", count, typed=delimited(2, varint(100_000_000) * count), least=4 * count)]


def listed_texts() -> list[Message]:
    """1,000,000 in a list."""
    return [message("texts", "BYTES", 1_000_000, typed=delimited(8, b"hello") * 1_000_000, least=9_000_000)]


def raw_texts() -> list[Message]:
    """1,000,000 elements."""
    return [message("texts", "BYTES", 1_000_000, raw=(struct.pack("<I", 5) + b"hello") * 1_000_000)]


def large_messages() -> list[Message]:
    """32 of 64 MiB, at once."""
    return [message("raw", "UINT8", 64 * 2**20, raw=bytes(64 * 2**20))] * 32


def large_upload() -> list[Message]:
    """512 MiB."""
    return [message("raw", "UINT8", 512 * 2**20, raw=bytes(512 * 2**20))]


def much_memory() -> list[Message]:
    """4 GiB, taken by the model."""
    return [message("hungry", "INT64", 1, raw=struct.pack("<q", 4 * 2**30))]


BESIDES: Final[dict[str, Callable[[], list[Message]] | None]] = {
    "nothing": None,
    "57 MiB of floats in a list": floats,
    "57 MiB of integers in a list": integers,
    "1,000,000 texts in a list": listed_texts,
    "1,000,000 texts": raw_texts,
    "32 messages of 64 MiB": large_messages,
    "an upload of 512 MiB": large_upload,
    "a model that takes 4 GiB": much_memory,
}


def ask(port: int, message: Message) -> None:
    """Raises ValueError for an error, or an answer that is too short."""

    def check(_: bytes, answer: memoryview) -> None:
        size = sum(len(value) for number, value in fields(answer) if number == 6)
        if size < message.answer_bytes_min:
            raise ValueError(f"an answer of {size} bytes")

    try:
        _one_after_another(
            port, Call(message.request, check), itertools.chain([True], itertools.repeat(False)).__next__
        )
    except WrongAnswer as problem:
        raise ValueError(str(problem)) from problem


def waits(port: int, goes_on: Callable[[], bool], pause_s: float) -> list[float]:
    """How long each small request took, in seconds. Raises ValueError for a wrong answer."""

    def check(_: bytes, answer: memoryview) -> None:
        if [bytes(value) for number, value in fields(answer) if number == 6] != [SMALL]:
            raise ValueError(f"wrong answer: {bytes(answer)!r}")

    call = Call(grpc_framed(written("small", "FP32", 4, raw=SMALL)), check)
    return _one_after_another(port, call, goes_on, pause_s)


def _one_after_another(port: int, call: Call, goes_on: Callable[[], bool], pause_s: float = 0.0) -> list[float]:
    caller = GrpcCaller("127.0.0.1", port, INFER, itertools.repeat(call), _BLOCKS)
    taken: list[float] = []
    with contextlib.closing(caller.connection), contextlib.closing(select.epoll()) as poll:
        poll.register(caller.connection, select.EPOLLIN | select.EPOLLOUT)
        while goes_on():
            began = time.perf_counter()
            caller.start()
            _until_answered(caller, poll)
            taken.append(time.perf_counter() - began)
            time.sleep(pause_s)
    return taken


def _until_answered(caller: GrpcCaller, poll: select.epoll) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        poll.modify(caller.connection, select.EPOLLIN | (select.EPOLLOUT if caller.wants_to_write() else 0))
        if not (found := poll.poll(max(0.0, until - time.monotonic()))):
            raise ValueError(f"no answer within {_WAIT_S:g} s")
        ((_, events),) = found
        if events & select.EPOLLOUT:
            caller.writable()
        if events & ~select.EPOLLOUT and caller.readable():
            return
