"""Calls that look whole and are not, and limits that hold for whole ones."""

import gzip
import struct

import trio

from tests.repeated_calls import INFER, asking, outputs_in, with_templates


async def ask(client, stream_id, message):
    await client.send(client.call(stream_id, INFER, message))
    return await client.answer(stream_id)


async def test_the_largest_answer_allowed(open_door, taken):
    """Goal: what is too large to be sent is told so, the first time and each time after."""
    door = await open_door(send_bytes_max=100)
    with_templates(door.engine.models["addsub"])
    client = await door.connect()
    first = await ask(client, 1, asking(0)[0])
    assert first[1]["grpc-status"] == "3"
    for stream_id in range(3, 15, 2):
        assert await ask(client, stream_id, asking(stream_id)[0]) == first
    assert True in taken


async def test_compressed_messages_between_plain_ones(door, taken):
    """Goal: each is answered with its own outputs, though the heads name the coding of both."""
    with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for index in range(40):
        stream_id = 2 * index + 1
        message, expected = asking(index)
        headers = client.frame(client.HEADERS, 4, stream_id, client.block(INFER, grpc_encoding="gzip"))
        packed = client.message(gzip.compress(message), 1) if index % 3 == 2 else client.message(message)
        await client.send(headers + client.frame(client.DATA, 1, stream_id, packed))
        body, trailers = await client.answer(stream_id)
        assert outputs_in(body) == expected
        assert trailers["grpc-status"] == "0"
    assert True in taken


async def test_frames_of_others_between_head_and_message(door, taken):
    """Goal: a ping, a credit or a reset amid a call is acted on, and the call is answered."""
    with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for stream_id in range(1, 11, 2):
        await ask(client, stream_id, asking(stream_id)[0])
    assert taken[-1]
    between = (
        client.frame(client.PING, 0, 0, b"12345678"),
        client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1000)),
        client.frame(client.RST, 0, 1, struct.pack(">I", 8)),
        client.frame(client.DATA, 1, 1, b"late"),
    )
    for index, stream_id in enumerate(range(11, 51, 2)):
        message, expected = asking(stream_id)
        frames = client.call(stream_id, INFER, message)
        at = 9 + int.from_bytes(frames[:3], "big")
        await client.send(frames[:at] + between[index % 4] + frames[at:])
        body, trailers = await client.answer(stream_id)
        assert outputs_in(body) == expected
        assert trailers["grpc-status"] == "0"
        assert outputs_in((await ask(client, stream_id + 100 + 2 * index, message))[0]) == expected
        if index == 0:
            break


async def test_stream_ids_that_do_not_rise(door, taken):
    """Goal: a whole call on a stream that is over, or on one of ours, has the effect that any call has there."""
    with_templates(door.engine.models["addsub"])
    for stream_id in (1, 9, 8, 2, 0, 0x8000_000D):
        client = await door.connect()
        for earlier in range(1, 11, 2):
            await ask(client, earlier, asking(earlier)[0])
        assert taken[-1]
        count = taken.count(True)
        await client.send(client.call(stream_id, INFER, asking(1)[0]) + client.frame(client.PING, 0, 0, b"87654321"))
        frames = []
        with trio.fail_after(2):
            while (frame := await client.next_frame()) is not None and frame[0] not in (client.PING, client.GOAWAY):
                frames.append(frame[0])
        assert taken.count(True) == count
        assert (client.DATA in frames) is (stream_id >= 1 << 31)  # the reserved bit means nothing: frame by frame
        await client.stream.aclose()


async def test_the_limit_of_calls_at_once(open_door, taken):
    """Goal: whole calls count, and one too many is refused."""
    door = await open_door(concurrent_streams_max=3)
    client = await door.connect()
    model = door.engine.models["addsub"]
    for stream_id in range(1, 11, 2):
        await ask(client, stream_id, asking(stream_id)[0])
    assert taken[-1]
    jobs, count = [], taken.count(True)
    model.submit = lambda request, on_done, deadline=0.0: jobs.append((request, on_done)) or _Job()
    for stream_id in range(11, 19, 2):
        await client.send(client.call(stream_id, INFER, asking(stream_id)[0]))
    await client.send(client.frame(client.PING, 0, 0, b"87654321"))
    with trio.fail_after(2):
        while (await client.next_frame())[0] != client.PING:
            pass
    assert client.resets == [17]
    assert taken.count(True) == count + 3
    (connection,) = door.server.connections.values()
    assert len(connection.calls) == 3


class _Job:
    def cancel(self):
        pass
