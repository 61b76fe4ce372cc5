"""HTTP/2 by hand: rules of streams and frames, flow control, cancellation, draining, and peers that mean harm.

Every misuse must end its own connection or stream, in bounded time, and nobody else's.
"""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
import trio
import trio.lowlevel
import trio.testing
from despina.frontends.grpc import server
from despina.schema.fault import DeadlineExceeded
from tritonclient.grpc import service_pb2

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PROTOCOL_ERROR, FLOW_CONTROL, STREAM_CLOSED, FRAME_SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11


def request(model: str = "identity", size: int = 4) -> bytes:
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[bytes(size)])
    message.inputs.add(name="IN", datatype="UINT8", shape=[size])
    return message.SerializeToString()


async def until(condition) -> None:
    """Waits for what the wire does not tell."""
    while not condition():  # noqa: ASYNC110 - the door has no event for tests
        await trio.sleep(0.001)


async def assert_served(door) -> None:
    """The door still answers somebody else."""
    client = await door.connect()
    await client.send(client.call(1, LIVE))
    data, trailers = await client.answer(1)
    assert data == client.message(b"\x08\x01")
    assert trailers["grpc-status"] == "0"
    await client.stream.aclose()


async def test_bytes_one_by_one(door) -> None:
    """Frames may be cut anywhere."""
    client = await door.connect(greet=False)
    wire = client.PREFACE + client.frame(4, 0, 0) + client.call(1, INFER, request())
    for at in range(len(wire)):
        await client.send(wire[at : at + 1])
        if at % 8 == 0:
            await trio.lowlevel.checkpoint()
    data, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
    assert service_pb2.ModelInferResponse.FromString(data[5:]).raw_output_contents[0] == bytes(4)


@pytest.mark.parametrize("piece", [1, 4, 7, 1000, 16384])
async def test_message_over_many_frames(door, piece) -> None:
    """A message may be spread over DATA frames of any size, padded or not, and end with an empty one."""
    client = await door.connect()
    message = client.message(request(size=3000 if piece < 100 else 200_000))
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(INFER)))
    for number, at in enumerate(range(0, len(message), piece)):
        part = message[at : at + piece]
        padded = bytes((9,)) + part + bytes(9)
        await client.send(client.frame(0, 8, 1, padded) if number % 3 == 0 else client.frame(0, 0, 1, part))
    await client.send(client.frame(client.DATA, 1, 1))
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 1, struct.pack(">I", 10**6)))
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", 10**6)))
    _, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"


@pytest.mark.parametrize("padding", [0, 200])
async def test_large_unary_call_is_not_reset(door, padding) -> None:
    """A request in one large frame, cut by the transport, is known to be whole when it is answered: no RST_STREAM."""
    client = await door.connect()
    big = 10**7
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, _U32(big)))
    payload = client.message(request(size=300_000))
    if padding:
        payload = bytes((padding,)) + payload + bytes(padding)
    wire = client.frame(client.DATA, 9 if padding else 1, 1, payload)
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(INFER)) + wire[:1000])
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.send(wire[1000:-100])
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.send(wire[-100:] + client.frame(client.WINDOW_UPDATE, 0, 1, _U32(big)))
    _, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
    await client.send(client.call(3, LIVE))
    await client.answer(3)  # fails on a reset of any stream
    assert not client.resets


async def test_continuation_padding_and_priority(door) -> None:
    """A header block may come in pieces, with padding and priority."""
    client = await door.connect()
    block = client.block(LIVE)
    head = client.frame(client.HEADERS, 8 | 0x20, 1, b"\x03" + bytes(5) + block[:5] + bytes(3))
    await client.send(head + client.frame(client.CONTINUATION, 0, 1, block[5:9]))
    await client.send(client.frame(client.CONTINUATION, 4, 1, block[9:]))
    await client.send(client.frame(client.DATA, 1, 1, client.message(b"")))
    assert (await client.answer(1))[1]["grpc-status"] == "0"


async def test_remembered_heads_follow_the_table(door) -> None:
    """The same block means something else once the peer's table has changed."""
    client = await door.connect()
    for number, path in enumerate([LIVE, LIVE, LIVE, INFER, LIVE, INFER, LIVE]):
        stream_id = 2 * number + 1
        await client.send(client.call(stream_id, path, request() if path == INFER else b"", x_n=str(number // 3)))
        data, trailers = await client.answer(stream_id)
        assert trailers["grpc-status"] == "0"
        assert (data == client.message(b"\x08\x01")) == (path == LIVE)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "application/json"}, "415"),
        ({"grpc-timeout": "soon"}, "400"),
    ],
)
async def test_heads_that_are_not_grpc(door, headers, status) -> None:
    """Requests that are no gRPC calls get an HTTP status."""
    client = await door.connect()
    fields = {":method": "POST", ":scheme": "http", ":path": LIVE, "content-type": "application/grpc", **headers}
    await client.send(client.frame(client.HEADERS, 5, 1, client.encoder.encode(list(fields.items()))))
    assert (await client.answer(1))[1][":status"] == status


async def test_unknown_encoding(door) -> None:
    """An unknown message encoding is UNIMPLEMENTED and names those that are known."""
    client = await door.connect()
    await client.send(client.call(1, LIVE, grpc_encoding="snappy"))
    trailers = (await client.answer(1))[1]
    assert trailers["grpc-status"] == "12"
    assert "gzip" in trailers["grpc-accept-encoding"]


@pytest.mark.parametrize(("body", "flag"), [(b"not gzip", 1), (zlib.compress(bytes(99))[:-3], 1), (b"", 1), (b"x", 2)])
async def test_bad_compression(door, body, flag) -> None:
    """A broken compressed message fails its call only."""
    client = await door.connect()
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER, grpc_encoding="deflate"))
    await client.send(head + client.frame(client.DATA, 1, 1, client.message(body, flag)))
    assert (await client.answer(1))[1]["grpc-status"] == "13"
    await assert_served(door)


async def test_compression_bomb(open_door) -> None:
    """A small message that inflates beyond the limit is refused without inflating it all."""
    door = await open_door(receive_bytes_max=1 << 20)
    client = await door.connect()
    bomb = zlib.compress(bytes(1 << 28))
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER, grpc_encoding="deflate"))
    await client.send(head + client.frame(client.DATA, 1, 1, client.message(bomb, 1)))
    assert (await client.answer(1))[1]["grpc-status"] == "8"


async def test_call_without_message(door) -> None:
    """A unary call that ends without its message is an error, not a hang."""
    client = await door.connect()
    await client.send(client.frame(client.HEADERS, 5, 1, client.block(INFER)))
    assert (await client.answer(1))[1]["grpc-status"] == "13"
    head = client.frame(client.HEADERS, 4, 3, client.block(INFER))
    await client.send(head + client.frame(client.DATA, 1, 3, b"\0\0\0\0\x09abc"))
    assert (await client.answer(3))[1]["grpc-status"] == "13"


# Cancellation.


async def test_reset_cancels(door) -> None:
    """RST_STREAM cancels the job; the connection serves on."""
    client = await door.connect()
    await client.send(client.call(1, INFER, request("held")))
    held = door.engine.models["held"]
    await held.submitted.wait()
    await client.send(client.frame(client.RST, 0, 1, struct.pack(">I", 8)) + client.call(3, LIVE))
    await client.answer(3)
    assert held.held[0].is_cancelled()
    held.release()


async def test_disconnect_cancels(door) -> None:
    """A lost connection cancels its jobs, those of streams too."""
    client = await door.connect()
    await client.send(client.call(1, INFER, request("held")))
    head = client.frame(client.HEADERS, 4, 3, client.block(STREAM))
    await client.send(head + client.frame(client.DATA, 0, 3, client.message(request("held"))))
    held = door.engine.models["held"].held
    await until(lambda: len(held) == 2)
    await client.stream.aclose()
    await until(lambda: all(job.is_cancelled() for job in held))
    assert not door.server.connections


async def test_management_call_is_cancelled(door) -> None:
    """A reset stops a management call that waits."""
    door.engine.load_gate = trio.Event()
    client = await door.connect()
    path = "/inference.GRPCInferenceService/RepositoryModelLoad"
    await client.send(client.call(1, path, b"\x12\x01m"))
    await until(lambda: door.engine.commands)
    await client.send(client.frame(client.RST, 0, 1, struct.pack(">I", 8)))
    await assert_served(door)
    await client.send(client.call(3, path, b"\x12\x01m", grpc_timeout="50m"))
    assert (await client.answer(3))[1]["grpc-status"] == "4"


async def test_deadline_before_the_message(door) -> None:
    """A call whose message does not come ends at its deadline."""
    client = await door.connect()
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(INFER, grpc_timeout="10m")))
    assert (await client.answer(1))[1]["grpc-status"] == "4"


# Flow control.


async def test_reply_waits_for_windows(door) -> None:
    """A reply larger than the peer's window comes piece by piece as the windows open, and small ones overtake it."""
    client = await door.connect(greet=False)
    await client.send(client.PREFACE + client.frame(4, 0, 0, struct.pack(">HI", 4, 100)))
    await client.send(client.call(1, INFER, request(size=500)))
    got = b""
    while len(got) < 100:
        got += (await client.wait_for(client.DATA, 1))[3]
    await client.send(client.call(3, LIVE))
    assert (await client.answer(3))[0] == client.message(b"\x08\x01")
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 1, struct.pack(">I", 150)))
    while len(got) < 250:
        got += (await client.wait_for(client.DATA, 1))[3]
    await client.send(client.frame(4, 0, 0, struct.pack(">HI", 4, 10_000)))
    rest, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
    assert bytes(500) in got + rest


async def test_streams_share_fairly(door) -> None:
    """Of two large replies, neither waits for the other's end."""
    client = await door.connect(greet=False)
    big = (1 << 31) - 1
    await client.send(client.PREFACE + client.frame(4, 0, 0, struct.pack(">HI", 4, big)))
    for stream_id in (1, 3):
        message = client.message(request(size=3_000_000))
        await client.send(client.frame(client.HEADERS, 4, stream_id, client.block(INFER)))
        for at in range(0, len(message), 1 << 19):
            await client.send(client.frame(client.DATA, 0, stream_id, message[at : at + (1 << 19)]))
    # Both replies wait for the connection's window before it is opened.
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, struct.pack(">I", big - 65535)))
    order = []
    ended = 0
    while ended < 2:
        frame = await client.next_frame()
        assert frame is not None
        if frame[0] == client.DATA:
            order.append(frame[2])
        if frame[0] == client.HEADERS and frame[1] & 1:
            ended += 1
    second = order.index(3)
    assert 1 in order[second:]


async def test_stream_window_overrun(open_door) -> None:
    """More DATA than the stream's window ends the connection."""
    door = await open_door(stream_window_bytes=70_000)
    client = await door.connect()
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(STREAM)))
    message = client.message(request("held", size=10_000))
    for _ in range(300):
        try:
            await client.send(client.frame(client.DATA, 0, 1, message))
        except trio.BrokenResourceError:
            break
    assert (await client.goodbye())[0] == FLOW_CONTROL
    await assert_served(door)


async def test_stream_in_flight_bound(open_door) -> None:
    """A stream reads no further than its bound of requests in flight."""
    door = await open_door(stream_requests_max=3)
    client = await door.connect()
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(STREAM)))
    await client.send(client.frame(client.DATA, 1, 1, client.message(request("held")) * 10))
    held = door.engine.models["held"]
    await held.submitted.wait()
    await assert_served(door)
    assert len(held.held) == 3
    answered = 0
    while answered < 10:
        answered += len(held.held)
        held.release()
        await trio.testing.wait_all_tasks_blocked(0.01)
    data, trailers = await client.answer(1)
    assert trailers["grpc-status"] == "0"
    assert data.count(b"triton_final_response") == 10


async def test_stream_with_a_message_too_large(open_door) -> None:
    """A message beyond the limit ends its stream with a status and cancels what the stream had in flight."""
    door = await open_door(receive_bytes_max=1000)
    client = await door.connect()
    await client.send(client.frame(client.HEADERS, 4, 1, client.block(STREAM)))
    await client.send(client.frame(client.DATA, 0, 1, client.message(request("held"))))
    held = door.engine.models["held"]
    await held.submitted.wait()
    await client.send(client.frame(client.DATA, 0, 1, b"\0" + _U32(1001)))
    assert (await client.answer(1))[1]["grpc-status"] == "8"
    await until(lambda: held.held[0].is_cancelled())
    await assert_served(door)


async def test_long_error_text(door) -> None:
    """A status text beyond what clients take is cut, and does not break the connection."""
    client = await door.connect()
    message = service_pb2.ModelInferRequest(model_name="é" * 20_000).SerializeToString()
    await client.send(client.call(1, INFER, message))
    trailers = (await client.answer(1))[1]
    assert trailers["grpc-status"] == "5"
    assert 6_000 < len(trailers["grpc-message"]) <= 7_000


# Rules.

_U32 = struct.Struct(">I").pack


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(frame(0, 0, 1, b"x"), PROTOCOL_ERROR, id="data-on-idle-stream"),
        pytest.param(frame(0, 0, 0, b"x"), PROTOCOL_ERROR, id="data-on-stream-0"),
        pytest.param(frame(1, 4, 2, b"\x82"), PROTOCOL_ERROR, id="even-stream"),
        pytest.param(frame(1, 4, 0, b"\x82"), PROTOCOL_ERROR, id="headers-on-stream-0"),
        pytest.param(frame(1, 0xC, 1, b"\x09abc"), PROTOCOL_ERROR, id="padding-beyond-frame"),
        pytest.param(frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff"), COMPRESSION, id="bad-hpack"),
        pytest.param(frame(1, 4, 1, b"\xbe"), COMPRESSION, id="index-beyond-table"),
        pytest.param(frame(1, 0, 1, b"\x82") + frame(6, 0, 0, bytes(8)), PROTOCOL_ERROR, id="no-continuation"),
        pytest.param(frame(1, 0, 1, b"\x82") + frame(9, 4, 3, b""), PROTOCOL_ERROR, id="continuation-elsewhere"),
        pytest.param(frame(9, 4, 1, b"\x82"), PROTOCOL_ERROR, id="lone-continuation"),
        pytest.param(frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"") * 9, CALM, id="empty-continuations"),
        pytest.param(frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x82" * 999) * 99, CALM, id="continuation-flood"),
        pytest.param(frame(3, 0, 1, _U32(8)), PROTOCOL_ERROR, id="reset-of-idle-stream"),
        pytest.param(frame(3, 0, 0, _U32(8)), PROTOCOL_ERROR, id="reset-of-stream-0"),
        pytest.param(frame(3, 0, 1, b"abc"), FRAME_SIZE, id="reset-of-wrong-size"),
        pytest.param(frame(4, 0, 1), PROTOCOL_ERROR, id="settings-on-stream"),
        pytest.param(frame(4, 0, 0, b"12345"), FRAME_SIZE, id="settings-of-wrong-size"),
        pytest.param(frame(4, 1, 0, bytes(6)), FRAME_SIZE, id="settings-ack-with-payload"),
        pytest.param(frame(4, 0, 0, struct.pack(">HI", 4, 2**31)), FLOW_CONTROL, id="huge-initial-window"),
        pytest.param(frame(4, 0, 0, struct.pack(">HI", 5, 100)), PROTOCOL_ERROR, id="tiny-frame-size"),
        pytest.param(frame(4, 0, 0, bytes(6 * 100)), CALM, id="too-many-settings"),
        pytest.param(frame(5, 4, 1, bytes(8)), PROTOCOL_ERROR, id="push-promise"),
        pytest.param(frame(6, 0, 0, bytes(7)), FRAME_SIZE, id="ping-of-wrong-size"),
        pytest.param(frame(6, 0, 1, bytes(8)), PROTOCOL_ERROR, id="ping-on-stream"),
        pytest.param(frame(8, 0, 0, bytes(4)), PROTOCOL_ERROR, id="window-increment-0"),
        pytest.param(frame(8, 0, 0, bytes(5)), FRAME_SIZE, id="window-update-of-wrong-size"),
        pytest.param(frame(8, 0, 0, _U32(2**31 - 1)), FLOW_CONTROL, id="window-overflow"),
        pytest.param(frame(8, 0, 9, _U32(1)), PROTOCOL_ERROR, id="window-of-idle-stream"),
        pytest.param(frame(2, 0, 1, b"x"), FRAME_SIZE, id="priority-of-wrong-size"),
        pytest.param(struct.pack(">IBI", 0xFFFFFF << 8, 0, 1), FRAME_SIZE, id="frame-too-large"),
        pytest.param(struct.pack(">IBI", 0xFFFFF << 8 | 1, 4, 1), CALM, id="head-too-large"),
        pytest.param(frame(2, 0, 1, bytes(5)) * 4000, CALM, id="priority-flood"),
        pytest.param(frame(77, 0, 1) * 4000, CALM, id="unknown-frame-flood"),
        pytest.param(frame(4, 0, 0) * 4000, CALM, id="settings-flood"),
        pytest.param(frame(6, 0, 0, bytes(8)) * 20, CALM, id="ping-flood"),
    ],
)
async def test_violations(door, wire, code) -> None:
    """Each violation ends the connection with its code, and only that connection."""
    client = await door.connect()
    await client.wait_for(client.SETTINGS)
    with contextlib.suppress(trio.BrokenResourceError):
        await client.send(wire)
    assert (await client.goodbye())[0] == code
    await assert_served(door)


async def test_not_http2(door) -> None:
    """An HTTP/1 client is told, and closed."""
    client = await door.connect(greet=False)
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.goodbye())[0] == PROTOCOL_ERROR


async def test_data_after_the_end(door) -> None:
    """DATA on a call that the client has ended resets it and cancels its job."""
    client = await door.connect()
    await client.send(client.call(1, INFER, request("held")) + client.frame(0, 0, 1, b"more"))
    _, _, _, payload = await client.wait_for(client.RST, 1)
    assert int.from_bytes(payload, "big") == STREAM_CLOSED
    await assert_served(door)
    assert door.engine.models["held"].held[0].is_cancelled()


async def test_stream_ids_go_up(door) -> None:
    """An id below the last one is a closed stream, whose frames are ignored."""
    client = await door.connect()
    await client.send(client.call(5, LIVE))
    await client.answer(5)
    await client.send(client.call(3, LIVE) + client.call(7, LIVE))
    await client.answer(7)


async def test_rapid_reset(open_door) -> None:
    """Calls started and cancelled faster than allowed end the connection."""
    door = await open_door(resets_burst=50, resets_per_s=1)
    client = await door.connect()
    with contextlib.suppress(trio.BrokenResourceError):
        for number in range(200):
            stream_id = 2 * number + 1
            await client.send(client.call(stream_id, INFER, request("held")) + frame(3, 0, stream_id, _U32(8)))
    assert (await client.goodbye())[0] == CALM
    held = door.engine.models["held"].held
    assert len(held) <= 52
    assert all(job.is_cancelled() for job in held)
    await assert_served(door)


async def test_concurrent_streams(open_door) -> None:
    """Calls beyond the announced number are refused one by one."""
    door = await open_door(concurrent_streams_max=2)
    client = await door.connect()
    for stream_id in (1, 3, 5):
        await client.send(client.call(stream_id, INFER, request("held")))
    _, _, stream_id, payload = await client.wait_for(client.RST)
    assert (stream_id, int.from_bytes(payload, "big")) == (5, REFUSED)
    door.engine.models["held"].release()
    await client.answer(1)


async def test_header_list_size(open_door) -> None:
    """A header list that decodes to more than allowed ends the connection, however small its block."""
    door = await open_door(header_list_bytes_max=4096)
    client = await door.connect()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", LIVE), ("content-type", "application/grpc")]
    big = client.encoder.encode([*fields, ("x-big", "v" * 1000)])
    await client.send(client.frame(client.HEADERS, 5, 1, big))
    many = client.encoder.encode([*fields, *[("x-big", "v" * 1000)] * 100])
    assert len(many) < 300
    await client.send(client.frame(client.HEADERS, 5, 3, many))
    assert (await client.goodbye())[0] == CALM


# Time.


async def test_silent_newcomer(open_door) -> None:
    """A connection that never says hello is closed, as is one stuck inside a frame."""
    door = await open_door(handshake_timeout_s=0.2)
    silent = await door.connect(greet=False)
    stuck = await door.connect()
    await stuck.send(b"\0\0\x08\x06")
    for client in (silent, stuck):
        while await client.next_frame() is not None:
            pass
    await assert_served(door)


async def test_idle_after_a_large_message(open_door) -> None:
    """A connection whose last frame was large and is complete may be idle as long as it likes."""
    door = await open_door(handshake_timeout_s=0.1)
    client = await door.connect()
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 0, _U32(10**7)))
    message = client.message(request(size=500_000))
    wire = client.frame(client.HEADERS, 4, 1, client.block(INFER)) + client.frame(client.DATA, 1, 1, message)
    for part in (wire[:1000], wire[1000:200_000], wire[200_000:]):
        await client.send(part)
        await trio.testing.wait_all_tasks_blocked(0.01)
    await client.send(client.frame(client.WINDOW_UPDATE, 0, 1, _U32(10**7)))
    await client.answer(1)
    await trio.sleep(1.2)  # two inspections
    await client.send(client.call(3, LIVE))
    await client.answer(3)


async def test_slow_reader_and_shut_window(open_door) -> None:
    """A peer that does not read, or keeps its window shut, is closed in bounded time; its memory is given back."""
    door = await open_door(write_stall_s=0.3)
    shut = await door.connect(greet=False)
    await shut.send(shut.PREFACE + shut.frame(4, 0, 0, struct.pack(">HI", 4, 0)) + shut.call(1, INFER, request()))
    deaf = await door.connect(greet=False)
    big = (1 << 31) - 1
    await deaf.send(deaf.PREFACE + deaf.frame(4, 0, 0, struct.pack(">HI", 4, big)))
    await deaf.send(deaf.frame(8, 0, 0, struct.pack(">I", big - 65535)))
    message = deaf.message(request(size=8_000_000))
    await deaf.send(deaf.frame(deaf.HEADERS, 4, 1, deaf.block(INFER)))
    for at in range(0, len(message), 1 << 19):
        await deaf.send(deaf.frame(deaf.DATA, 0, 1, message[at : at + (1 << 19)]))
    while await shut.next_frame() is not None:
        pass
    await until(lambda: not door.server.connections)
    await assert_served(door)


async def test_replies_are_not_read(open_door) -> None:
    """A peer that asks without reading is not read from beyond a bound, and closed in the end."""
    door = await open_door(write_stall_s=0.5, backlog_bytes_max=100_000)
    client = await door.connect()
    message = request(size=10_000)
    sent = 0
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012 - the loop is the attack
        for number in range(100_000):
            await client.send(client.call(2 * number + 1, INFER, message))
            sent += 1
            for connection in door.server.connections.values():
                assert connection.outlet.queued_bytes < 3_000_000
    await assert_served(door)


async def test_request_that_stops(open_door) -> None:
    """A message whose bytes stop coming fails its call; the connection serves on."""
    door = await open_door(read_stall_s=0.2, handshake_timeout_s=60)
    client = await door.connect()
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER))
    await client.send(head + client.frame(client.DATA, 0, 1, client.message(request())[:-2]))
    trailers = (await client.answer(1))[1]
    assert trailers["grpc-status"] == "1"
    await client.send(client.call(3, LIVE))
    await client.answer(3)


async def test_keepalive(open_door) -> None:
    """A silent peer is pinged; one that does not answer is closed."""
    door = await open_door(keepalive_time_ms=100, keepalive_timeout_ms=300, keepalive_permit_without_calls=True)
    client = await door.connect()
    await client.wait_for(client.PING)
    await client.send(client.frame(client.PING, 1, 0, bytes(8)))
    await client.wait_for(client.PING)
    while await client.next_frame() is not None:
        pass


async def test_connection_age(open_door) -> None:
    """An old connection is asked to leave."""
    door = await open_door(connection_age_ms_max=100)
    client = await door.connect()
    assert (await client.goodbye())[0] == 0


async def test_connection_age_grace(open_door) -> None:
    """A call that outlives the grace of an old connection is cut off and cancelled."""
    door = await open_door(connection_age_ms_max=100, connection_age_grace_ms=100)
    client = await door.connect()
    await client.send(client.call(1, INFER, request("held")))
    held = door.engine.models["held"]
    await held.submitted.wait()
    await client.wait_for(client.GOAWAY)
    assert await client.next_frame() is None
    assert held.held[0].is_cancelled()


async def test_no_keepalive_without_calls(open_door) -> None:
    """Where it is not permitted, a silent peer is pinged only while it has a call."""
    door = await open_door(keepalive_time_ms=100, keepalive_timeout_ms=60_000)
    idle, busy = await door.connect(), await door.connect()
    await busy.send(busy.call(1, INFER, request("held")))
    await busy.wait_for(busy.PING)
    await idle.send(idle.call(1, LIVE))
    kinds = []
    while client_frame := await idle.next_frame():
        kinds.append(client_frame[0])
        if client_frame[0] == idle.HEADERS and client_frame[1] & 1:
            break
    assert idle.PING not in kinds


@pytest.mark.parametrize(("permitted", "strikes"), [(True, False), (False, True)])
async def test_pings_without_calls(open_door, permitted, strikes) -> None:
    """Pings that keep the interval are strikes without calls, unless that is permitted."""
    door = await open_door(
        ping_interval_without_data_ms_min=0, keepalive_permit_without_calls=permitted, ping_strikes_max=2
    )
    client = await door.connect()
    for _ in range(5):
        await client.send(client.frame(client.PING, 0, 0, bytes(8)))
    if strikes:
        assert await client.goodbye() == (11, b"too_many_pings")
    else:
        await client.send(client.call(1, LIVE))
        await client.answer(1)


async def test_pings_beside_data_are_no_strikes(open_door) -> None:
    """A peer that measures while it is served earns no strike."""
    door = await open_door(ping_strikes_max=1)
    client = await door.connect()
    for stream_id in range(1, 20, 2):
        await client.send(client.call(stream_id, LIVE) + client.frame(client.PING, 0, 0, bytes(8)))
        await client.answer(stream_id)


# Draining.


async def test_drain(door) -> None:
    """Draining closes the port first, says GOAWAY, answers what is in flight, and is not delayed by the idle."""
    busy, idle = await door.connect(), await door.connect()
    await busy.send(busy.call(1, INFER, request("held")))
    held = door.engine.models["held"]
    await held.submitted.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.server.drain, trio.current_time() + 10)
        assert (await idle.goodbye())[0] == 0
        for _ in range(2):
            await busy.wait_for(busy.GOAWAY)
        with pytest.raises(OSError, match="connect"):
            await door.connect()
        await busy.send(busy.call(3, LIVE))  # too late: ignored, as the client knows from GOAWAY
        held.release()
        assert (await busy.answer(1))[1]["grpc-status"] == "0"
        assert await busy.next_frame() is None


async def test_drain_deadline(door) -> None:
    """What is not through by the deadline is cut off and cancelled."""
    client = await door.connect()
    await client.send(client.call(1, INFER, request("held")))
    held = door.engine.models["held"]
    await held.submitted.wait()
    await door.server.drain(trio.current_time() + 0.05)
    assert held.held[0].is_cancelled()
    await client.wait_for(client.GOAWAY)
    assert (await client.next_frame())[0] == client.PING
    assert await client.next_frame() is None


async def test_out_of_descriptors(door, monkeypatch) -> None:
    """When accept fails for want of descriptors, the door waits a little instead of spinning, then goes on."""
    import errno

    real = door.server._listeners
    calls = []

    class Exhausted:
        def __init__(self, listener):
            self.listener = listener

        def accept(self):
            calls.append(1)
            if len(calls) < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.listener.accept()

        def close(self):
            self.listener.close()

    for fd, listener in list(real.items()):
        real[fd] = Exhausted(listener)
    await assert_served(door)
    assert 3 <= len(calls) <= 5


async def test_two_listeners_out_of_descriptors(door) -> None:
    """Goal: the second to find it in one pass does not stumble over the first."""
    import errno

    class Exhausted:
        def accept(self):
            raise OSError(errno.EMFILE, "Too many open files")

    for _ in range(2):
        door.server._accept(Exhausted())
    await assert_served(door)


async def test_the_longest_idle_makes_room(door, monkeypatch) -> None:
    """Where descriptors are used up, idle connections are asked to leave, the oldest first; busy ones stay."""
    import errno

    monkeypatch.setattr(server, "_ROOM_CONNECTIONS", 1)
    monkeypatch.setattr(server, "_ACCEPT_PAUSE_S", 0.01)
    busy = await door.connect()
    await busy.send(busy.call(1, INFER, request("held")))
    await door.engine.models["held"].submitted.wait()
    others = [await door.connect() for _ in range(3)]
    for client in (others[1], others[2], others[0]):
        await client.send(client.frame(client.PING, 0, 0, bytes(8)))
        await client.wait_for(client.PING)
    places = len(door.server.connections)

    class Full:
        def __init__(self, listener):
            self.listener = listener

        def accept(self):
            if len(door.server.connections) >= places:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.listener.accept()

        def close(self):
            self.listener.close()

    for fd, listener in list(door.server._listeners.items()):
        door.server._listeners[fd] = Full(listener)
    newcomers = []
    for leaver in (others[1], others[2]):
        newcomers.append(await door.connect())
        assert (await leaver.goodbye())[0] == 0
        await newcomers[-1].send(newcomers[-1].call(1, LIVE))
        assert (await newcomers[-1].answer(1))[1]["grpc-status"] == "0"
    door.engine.models["held"].release()
    assert (await busy.answer(1))[1]["grpc-status"] == "0"


async def test_a_streams_deadline_is_told_once_whoever_notices(door) -> None:
    """A request that ends because the call's deadline has passed ends the call, not with an error among its answers."""
    model = door.engine.models["held"]
    client = await door.connect()
    headers = client.frame(client.HEADERS, 4, 1, client.block(STREAM, grpc_timeout="9S"))
    await client.send(headers + client.frame(client.DATA, 0, 1, client.message(request("held"))))
    await until(lambda: model.held)
    model.held[0].fault = DeadlineExceeded("Deadline Exceeded")
    model.deliver(model.held[0])
    data, trailers = await client.answer(1)
    assert (data, trailers["grpc-status"], trailers["grpc-message"]) == (b"", "4", "Deadline Exceeded")
