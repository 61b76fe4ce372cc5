"""Compressed requests: inflated whole, within bounds, and without keeping what nobody wants."""

from __future__ import annotations

import gzip
import random
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import trio
from despina.frontends.grpc.request import inflate
from despina.frontends.grpc.request.inflate import BadCompression, NobodyWaits, TooLarge, inflate_in_steps

from tests.unit.grpc.test_grpc_extensions import request

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
GZIP, DEFLATE = "gzip", "deflate"


def always():
    return True


def noise(size):
    """Half of it can be compressed."""
    return random.Random(size).randbytes(size // 2) + bytes(size - size // 2)


@pytest.mark.parametrize("kept", [1, 300_000, 64 << 20])
@pytest.mark.parametrize("size", [0, 1, 262_144, 262_145, 3_000_000])
@pytest.mark.parametrize(("encoding", "compress"), [(GZIP, gzip.compress), (DEFLATE, zlib.compress)])
def test_what_was_compressed_comes_back(monkeypatch, encoding, compress, size, kept):
    """Goal: whole, at the limit too, whether it was inflated once or twice; one byte more is too large."""
    monkeypatch.setattr(inflate, "_KEPT_BYTES_MAX", kept)
    plain = noise(size)
    packed = memoryview(compress(plain))
    assert bytes(inflate_in_steps(packed, encoding, max(1, size), always)) == plain
    if size > 1:
        with pytest.raises(TooLarge):
            inflate_in_steps(packed, encoding, size - 1, always)


@pytest.mark.parametrize("kept", [1, 64 << 20])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data + bytes(70_000), lambda _: b""]
)
def test_damaged(monkeypatch, damage, kept):
    """Goal: cut off, or followed by anything, near the end or far behind it, is no message."""
    monkeypatch.setattr(inflate, "_KEPT_BYTES_MAX", kept)
    with pytest.raises(BadCompression):
        inflate_in_steps(memoryview(damage(zlib.compress(noise(200_000)))), DEFLATE, 1 << 30, always)


@pytest.mark.parametrize("pieces", [0, 3, 14])
def test_it_stops_when_nobody_waits(monkeypatch, pieces):
    """Goal: within a piece of the call's end, in the first round and in the second."""
    monkeypatch.setattr(inflate, "_KEPT_BYTES_MAX", 1)
    answers = iter([True] * pieces + [False])
    with pytest.raises(NobodyWaits):
        inflate_in_steps(memoryview(zlib.compress(bytes(10 * 262_144))), DEFLATE, 1 << 30, lambda: next(answers))
    assert next(answers, None) is None


async def compressed(client, stream_id, data, path=INFER):
    head = client.frame(client.HEADERS, 4, stream_id, client.block(path, grpc_encoding="deflate"))
    body = client.message(zlib.compress(data), 1)
    step = 16_384
    frames = [
        client.frame(client.DATA, int(at + step >= len(body)), stream_id, body[at : at + step])
        for at in range(0, len(body), step)
    ]
    await client.send(head + b"".join(frames))


async def test_no_memory_for_what_a_message_becomes(door, monkeypatch):
    """Goal: the call is refused; the connection serves the next one."""

    def no_memory(*_):
        raise MemoryError

    client = await door.connect()
    with monkeypatch.context() as patch:
        patch.setattr(inflate, "np", SimpleNamespace(empty=no_memory, uint8=np.uint8))
        await compressed(client, 1, request("nothing", rows=5000).SerializeToString())
        assert (await client.answer(1))[1]["grpc-status"] == "8"
    await compressed(client, 3, request("nothing", rows=5000).SerializeToString())
    assert (await client.answer(3))[1]["grpc-status"] == "0"


async def test_a_call_that_ends_stops_its_worker(door, monkeypatch):
    """Goal: a reset is noticed where the message is inflated."""
    is_over = trio.Event()
    token = trio.lowlevel.current_trio_token()
    begun = trio.Event()

    def pieces(_data, _encoding):
        try:
            while True:
                trio.from_thread.run_sync(begun.set, trio_token=token)
                yield b"x"
        finally:
            trio.from_thread.run_sync(is_over.set, trio_token=token)

    monkeypatch.setattr(inflate, "_pieces", pieces)
    client = await door.connect()
    await compressed(client, 1, request("nothing", rows=5000).SerializeToString())
    await begun.wait()
    await client.send(client.frame(client.RST, 0, 1, bytes(4)))
    await is_over.wait()


async def test_messages_that_wait_are_bounded(open_door):
    """Goal: what comes behind a message that a stream has not taken reopens no window, however large."""
    door = await open_door(stream_window_bytes=1 << 18, stream_requests_max=1)
    client = await door.connect()
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(STREAM)))
    message = client.message(request("held", rows=700).SerializeToString())
    assert (1 << 18) / 4 > len(message) > 40_000  # one alone is not worth a WINDOW_UPDATE
    halves = client.frame(client.DATA, 0, 1, message[:20_000]) + client.frame(client.DATA, 0, 1, message[20_000:])
    await client.send(halves)
    held = door.engine.models["held"]
    await held.submitted.wait()
    await client.send(halves * 3)
    assert await granted(client) <= 2 * len(message)  # the one that is executed, and the one that is next
    while held.held:
        held.submitted = trio.Event()
        held.release()
        with trio.move_on_after(0.05):
            await held.submitted.wait()
    assert await granted(client) >= 2 * len(message)


async def granted(client):
    """Window that the server has given on stream 1 by the time it answers a PING."""
    await client.send(client.frame(client.PING, 0, 0, bytes(8)))
    count = 0
    while True:
        kind, flags, stream_id, payload = await client.next_frame()
        if kind == client.WINDOW_UPDATE and stream_id == 1:
            count += int.from_bytes(payload, "big")
        if kind == client.PING and flags & 1:
            return count
