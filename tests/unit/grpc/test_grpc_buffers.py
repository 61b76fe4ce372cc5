"""Where large messages go: memory that is used again, under nobody who still has it, and given back in the end."""

from __future__ import annotations

import mmap
import struct

import numpy as np
import trio
from despina.engine.port.buffers import BufferPool
from tritonclient.grpc import service_pb2

from .test_grpc_http2 import INFER, STREAM, request, until

SIZE = 500_000


async def greeted(door):
    """A client whose windows take large answers."""
    client = await door.connect(greet=False)
    most = (1 << 31) - 1
    opened = client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", most - 65535))
    await client.send(client.PREFACE + client.frame(4, 0, 0, struct.pack(">HI", 4, most)) + opened)
    return client


def call(client, stream_id, message):
    head = client.frame(client.HEADERS, 4, stream_id, client.block(INFER))
    return head + client.frame(client.DATA, 1, stream_id, client.message(message))


def answered(data):
    return service_pb2.ModelInferResponse.FromString(data[5:]).raw_output_contents[0]


async def test_buffers_are_used_again(door) -> None:
    """Goal: ten large calls one after the other need one or two buffers."""
    client = await greeted(door)
    for number in range(10):
        await client.send(call(client, 2 * number + 1, request(size=SIZE)))
        data, trailers = await client.answer(2 * number + 1)
        assert (trailers["grpc-status"], answered(data)) == ("0", bytes(SIZE))
    await until(lambda: door.server.buffers.kept_bytes)
    assert door.server.buffers.kept_bytes <= 3 * SIZE


async def test_a_buffer_in_use_is_nobody_elses(door) -> None:
    """Goal: a request that is held keeps its bytes while others of its size come and go, and when its caller leaves."""
    model = door.engine.models["identity"]
    model.is_held = True
    first, second = await greeted(door), await greeted(door)
    await first.send(call(first, 1, request(size=SIZE).replace(bytes(SIZE), b"a" * SIZE)))
    await until(lambda: model.waiting)
    model.is_held = False
    view = next(iter(model.waiting[0].request.inputs.values())).memory()
    for number in range(3):
        if number == 2:
            await first.send(first.frame(first.RST, 0, 1, struct.pack(">I", 8)))
            await until(lambda: door.server.buffers.kept_bytes > 2 * SIZE)
        await second.send(call(second, 2 * number + 1, request(size=SIZE)))
        data, _ = await second.answer(2 * number + 1)
        assert answered(data) == bytes(SIZE)
    assert bytes(view) == b"a" * SIZE


async def test_messages_of_a_stream_have_their_own(door) -> None:
    """Goal: large messages of one stream, sent at once, are each answered with their own bytes."""
    client = await greeted(door)
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(STREAM)))
    wanted = [bytes([mark]) * SIZE for mark in b"abc"]
    for one in wanted:
        message = client.message(request(size=SIZE).replace(bytes(SIZE), one))
        await client.send(client.frame(client.DATA, 0, 1, message))
    await client.send(client.frame(client.DATA, 1, 1))
    data, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
    got = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        told = service_pb2.ModelStreamInferResponse.FromString(data[5 : 5 + size])
        got.append(told.infer_response.raw_output_contents[0])
        data = data[5 + size :]
    assert got == wanted


async def test_a_models_own_buffers(door) -> None:
    """Goal: large messages for a model that has buffers go there, with the first tensor aligned; what is compressed, on
    a stream, or for a model that is not there goes where all others go. Buffers of both are freed."""
    model = door.engine.models["identity"]
    model.buffers = pool = BufferPool(1 << 24, lambda size: np.frombuffer(mmap.mmap(-1, size), np.uint8))
    client = await greeted(door)
    model.is_held = True
    await client.send(call(client, 1, request(size=SIZE).replace(bytes(SIZE), b"a" * SIZE)))
    await until(lambda: model.waiting)
    view = next(iter(model.waiting[0].request.inputs.values())).memory()
    assert np.frombuffer(view, np.uint8).ctypes.data % 64 == 0
    model.is_held = False
    model.release()
    data, _ = await client.answer(1)
    assert answered(data) == b"a" * SIZE
    await until(lambda: pool.kept_bytes)
    assert door.server.pools == {pool}
    await client.send(call(client, 3, request("nobody", size=SIZE)))
    _, trailers = await client.answer(3)
    assert trailers["grpc-status"] == "5"
    await until(lambda: door.server.buffers.kept_bytes)
    assert door.server.pools == {pool, door.server.buffers}


async def test_what_nobody_needs_is_freed(open_door) -> None:
    """Goal: after a while without large messages nothing is kept, with connections and without."""
    door = await open_door(recycled_idle=0.05)
    for stays in (True, False):
        client = await greeted(door)
        await client.send(call(client, 1, request(size=SIZE)))
        await client.answer(1)
        if not stays:
            await client.stream.aclose()
        with trio.fail_after(60):
            await until(lambda: not door.server.buffers.kept_bytes)
