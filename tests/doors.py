"""Both doors over a real engine, and callers with one connection each that give back what came, byte for byte."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import despina
import hpack
import trio
from despina.engine.engine import Engine
from despina.frontends.grpc import GrpcServer, GrpcSettings, serve_grpc
from despina.frontends.http import HttpSettings, serve_http
from despina.frontends.http.server import HttpServer


@attrs.frozen
class Doors:
    """One engine and its two doors."""

    engine: Engine
    http: HttpServer
    grpc: GrpcServer
    http_port: int
    grpc_port: int

    async def http_caller(self) -> HttpCaller:
        return HttpCaller(await trio.open_tcp_stream("127.0.0.1", self.http_port))

    async def grpc_caller(self) -> GrpcCaller:
        caller = GrpcCaller(await trio.open_tcp_stream("127.0.0.1", self.grpc_port))
        await caller.stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0))
        return caller


@asynccontextmanager
async def both_doors(repository: Path, **options: Any) -> AsyncIterator[Doors]:
    """Serves an engine over `repository`, on free ports; options as for `open_engine`."""
    async with despina.open_engine(repository, **options) as engine, trio.open_nursery() as nursery:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [sock.getsockname()[1] for sock in sockets]
        http = await nursery.start(partial(serve_http, engine, HttpSettings(), sockets=sockets[:1]))
        grpc = await nursery.start(partial(serve_grpc, engine, GrpcSettings(), sockets=sockets[1:]))
        yield Doors(engine, http, grpc, *ports)
        nursery.cancel_scope.cancel()


class HttpCaller:
    """Sends one request after the other."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def ask(self, path: str, body: bytes, fields: str = "") -> tuple[bytes, bytes]:
        """Head and body of the answer to a POST. `fields` are header lines."""
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        await self.stream.send_all(head.encode() + body)
        received = b""
        while b"\r\n\r\n" not in received:
            received += await self._more()
        answer, _, rest = received.partition(b"\r\n\r\n")
        size = int(answer.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        while len(rest) < size:
            rest += await self._more()
        assert len(rest) == size, "bytes behind the answer"
        return answer, rest

    async def _more(self) -> bytes:
        data = await self.stream.receive_some()
        assert data, "the connection has ended"
        return bytes(data)


class GrpcCaller:
    """Makes one unary call after the other, each in one piece."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._received = b""
        self._last = -1

    async def ask(self, path: str, message: bytes) -> tuple[bytes, dict[str, str]]:
        """The DATA bytes and the headers and trailers of the answer."""
        self._last += 2
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "h", "te": "trailers"}
        block = self._encoder.encode([*fields.items(), ("content-type", "application/grpc")])
        data = struct.pack(">BI", 0, len(message)) + message
        await self.stream.send_all(_frame(_HEADERS, 4, self._last, block) + _frame(_DATA, 1, self._last, data))
        answer, headers = b"", {}
        while True:
            kind, flags, stream_id, payload = await self._next_frame()
            if kind == _HEADERS:
                headers.update(self._decoder.decode(payload))
            if kind == _DATA:
                answer += payload
                if self._last % 64 == 1:  # the windows never close
                    await self.stream.send_all(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
            assert kind != _GOAWAY, payload
            if stream_id == self._last and flags & 1 and kind in (_HEADERS, _DATA):
                return answer, headers

    async def _next_frame(self) -> tuple[int, int, int, bytes]:
        while True:
            if len(self._received) >= 9:
                word, flags, stream_id = struct.unpack_from(">IBI", self._received)
                end = 9 + (word >> 8)
                if len(self._received) >= end:
                    payload, self._received = self._received[9:end], self._received[end:]
                    return word & 255, flags, stream_id, payload
            data = await self.stream.receive_some()
            assert data, "the connection has ended"
            self._received += data


_DATA, _HEADERS, _SETTINGS, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 7, 8


def _frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload
