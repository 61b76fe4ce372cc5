"""One HTTP request as bytes, and its answer as a value that can be recorded and compared.

A probe goes out over a connection of its own, byte for byte as written, so that it may be as wrong as it likes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import zlib
from typing import Any

import attrs

TIMEOUT_SECONDS = 10.0
# What clients can depend on. Everything else in a head is a matter of taste.
COMPARED_HEADERS = (
    "content-type",
    "content-encoding",
    "accept-encoding",
    "inference-header-content-length",
    "transfer-encoding",
)


@attrs.frozen
class HttpProbe:
    """A named request. `raw` overrides everything else: those bytes go out as they are."""

    name: str
    method: str = "GET"
    path: str = "/v2"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None

    def encoded(self) -> bytes:
        """The bytes on the wire. Content-Length is added unless a header already speaks of the body's length."""
        if self.raw is not None:
            return self.raw
        headers = [("Host", "localhost"), *self.headers]
        named = {name.lower() for name, _ in headers}
        if self.body is not None and not named & {"content-length", "transfer-encoding"}:
            headers.append(("Content-Length", str(len(self.body))))
        head = f"{self.method} {self.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
        return head.encode("latin-1") + b"\r\n" + (self.body or b"")


def http_answer(port: int, probe: HttpProbe) -> dict[str, Any]:
    """What the server on `port` says to `probe`: status, headers, and the body as JSON, binary tail or text.

    A connection closed without an answer is {"closed": true}; no answer in time is {"silent": true}.
    """
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(probe.encoded())
            response = http.client.HTTPResponse(connection, method=probe.method)
            response.begin()
            body = response.read()
        except TimeoutError:
            return {"silent": True}
        except (http.client.HTTPException, ConnectionError):
            return {"closed": True}
    headers = {name: value for name in COMPARED_HEADERS if (value := response.getheader(name)) is not None}
    if headers.get("content-encoding") in ("gzip", "deflate"):
        body = zlib.decompress(body, 32 + zlib.MAX_WBITS)  # how well it is compressed is nobody's business
    return {"status": response.status, "headers": headers, **described(body, headers)}


def described(body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """The body, taken apart as far as it can be."""
    length = headers.get("inference-header-content-length")
    head, tail = (body, b"") if length is None else (body[: int(length)], body[int(length) :])
    try:
        value: dict[str, Any] = {"json": json.loads(head)}
    except ValueError:
        return {"text": body.decode("latin-1")}
    if tail:
        value["tail"] = tail.hex()
    return value
