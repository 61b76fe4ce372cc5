"""A gRPC door on a free port over an engine of a few lines, and a client that speaks raw frames."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import Any

import attrs
import hpack
import pytest
import trio
from despina.frontends.grpc import GrpcServer, GrpcSettings, serve_grpc
from despina.frontends.grpc.connection.connection import Connection
from despina.frontends.grpc.connection.control import LEAVING

from tests.fake_engine import FakeEngine


@attrs.frozen
class Door:
    engine: FakeEngine
    server: GrpcServer
    port: int

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def connect(self, *, greet: bool = True) -> RawClient:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        client = RawClient(stream)
        if greet:
            await client.send(RawClient.PREFACE + client.frame(4, 0, 0))
        return client


@pytest.fixture
async def open_door(nursery):
    """`await open_door(**settings)` serves a new fake engine."""

    async def watch() -> None:
        await trio.sleep(300)  # the longest takes 40 s beside others
        pytest.fail("the test hangs")

    nursery.start_soon(watch)

    async def opener(**settings: Any) -> Door:
        engine = FakeEngine(echoes_parameters=True)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = await nursery.start(partial(serve_grpc, engine, GrpcSettings(**settings), sockets=[listener]))
        return Door(engine, server, port)

    yield opener
    nursery.cancel_scope.cancel()


@pytest.fixture
async def door(open_door) -> Door:
    return await open_door()


class RawClient:
    """HTTP/2 by hand: sends what it is told, right or wrong, and reads frames."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._buffer = b""
        self.resets: list[int] = []
        """Streams that were reset."""

    @staticmethod
    def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
        return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload

    @staticmethod
    def message(data: bytes, flag: int = 0) -> bytes:
        return struct.pack(">BI", flag, len(data)) + data

    def block(self, path: str, **extra: str) -> bytes:
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        headers.update({name.replace("_", "-"): value for name, value in extra.items()})
        return self.encoder.encode(list(headers.items()))

    def call(self, stream_id: int, path: str, data: bytes = b"", **extra: str) -> bytes:
        """The frames of a whole unary call."""
        headers = self.frame(self.HEADERS, 4, stream_id, self.block(path, **extra))
        return headers + self.frame(self.DATA, 1, stream_id, self.message(data))

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def next_frame(self) -> tuple[int, int, int, bytes] | None:
        """(kind, flags, stream id, payload), or None at the connection's end."""
        while True:
            if len(self._buffer) >= 9:
                word, flags, stream_id = struct.unpack_from(">IBI", self._buffer)
                end = 9 + (word >> 8)
                if len(self._buffer) >= end:
                    payload, self._buffer = self._buffer[9:end], self._buffer[end:]
                    if word & 255 == self.RST:
                        self.resets.append(stream_id)
                    if word & 255 == self.PING and not flags and payload == LEAVING:
                        await self.stream.send_all(self.frame(self.PING, 1, 0, payload))
                    return word & 255, flags, stream_id, payload
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data

    async def wait_for(self, kind: int, stream_id: int | None = None) -> tuple[int, int, int, bytes]:
        while True:
            frame = await self.next_frame()
            assert frame is not None, f"the connection ended before a frame of kind {kind}"
            if frame[0] == self.HEADERS and frame[0] != kind:
                self.decoder.decode(frame[3])
            if frame[0] == kind and stream_id in (None, frame[2]):
                return frame

    async def answer(self, stream_id: int) -> tuple[bytes, dict[str, str]]:
        """The DATA bytes and the trailers of a call."""
        data = b""
        while True:
            frame = await self.next_frame()
            assert frame is not None, "the connection ended before the trailers"
            kind, flags, at, payload = frame
            headers = dict(self.decoder.decode(payload)) if kind == self.HEADERS else {}
            if at != stream_id:
                continue
            assert kind != self.RST, f"reset with {payload!r}"
            if kind == self.DATA:
                data += payload
            if kind == self.HEADERS and flags & 1:
                return data, headers

    async def goodbye(self) -> tuple[int, bytes]:
        """Error code and text of the GOAWAY that must come, followed by the connection's end."""
        _, _, _, payload = await self.wait_for(self.GOAWAY)
        if payload[:4] == b"\x7f\xff\xff\xff":  # the server stops, and says which call was the last once we know
            _, _, _, payload = await self.wait_for(self.GOAWAY)
        assert await self.next_frame() is None
        return int.from_bytes(payload[4:8], "big"), payload[8:]


@pytest.fixture
def taken(monkeypatch):
    """Whether each call that came in one piece was taken whole, in order."""
    verdicts = []
    take_call = Connection.take_call

    def watched(self, *arguments, **more):
        verdicts.append(take_call(self, *arguments, **more))
        return verdicts[-1]

    monkeypatch.setattr(Connection, "take_call", watched)
    return verdicts
