"""The head of a request: request line and headers, read by llhttp and then held to stricter rules than llhttp's.

Refused with 400: anything that two parsers could read in two ways (bare LF, folded headers, spaces before the colon,
NUL, repeated or odd Content-Length), HTTP versions other than 1.0 and 1.1. Transfer codings other than `chunked` are
400 too, not 501: what cannot be framed must not look like our failure. Content-Length beside `chunked`, which clients
send that know both, is read as chunks; nothing that follows on the connection is, so that nobody can hide a request
there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import httptools

from ..request.request import Notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNKED: Final = -1
"""The `length` of a body whose size only its chunks tell."""

_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_INT32_MAX: Final = 2**31 - 1


class Refusal(Exception):
    """The request cannot be served, nor anything that follows it on this connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head:
    """A parsed head. Immutable but for its notes: a connection uses it again for each head with the same bytes."""

    __slots__ = (
        "expects_continue",
        "fields",
        "headers",
        "is_http10",
        "keep_alive",
        "length",
        "method",
        "notes",
        "path",
        "raw",
    )

    def __init__(
        self,
        raw: bytes,
        method: bytes,
        target: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        headers: Mapping[bytes, bytes],
        length: int,
        is_http10: bool,
    ) -> None:
        self.raw = raw
        self.method = method
        self.path = path_of(target)
        self.fields = fields
        """Header lines as received."""
        self.headers = headers
        """By name in lower case; of repeated ones the first."""
        self.length = length
        """Bytes of the body, or CHUNKED."""
        self.is_http10 = is_http10
        self.notes = Notes()
        options = headers.get(b"connection", b"").lower()
        self.keep_alive = b"keep-alive" in options if is_http10 else b"close" not in options
        if method == b"CONNECT" or (length == CHUNKED and b"content-length" in headers):
            self.keep_alive = False
        self.expects_continue = not is_http10 and headers.get(b"expect", b"").lower() == b"100-continue"


def parse_head(raw: bytes, *, header_count_max: int, body_bytes_max: int) -> Head:
    """Reads `raw`, which ends with the empty line. Raises Refusal."""
    if not 65 <= raw[0] <= 90:  # llhttp would skip stray line ends
        raise Refusal(400, "malformed request: a method in capitals is expected")
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    parser.set_dangerous_leniencies(lenient_chunked_length=True)  # what that means is decided below
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade that is asked for may be ignored; the head has been read
    except httptools.HttpParserError as problem:
        raise Refusal(400, f"malformed request: {problem}") from problem
    if not collector.target:
        raise Refusal(400, "malformed request: no request line")
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise Refusal(400, f"HTTP version {version} is not supported, expected 1.0 or 1.1")
    if len(collector.fields) > header_count_max:
        raise Refusal(431, f"request has {len(collector.fields)} headers, at most {header_count_max} are accepted")
    headers: dict[bytes, bytes] = {}
    for name, value in collector.fields:
        headers.setdefault(name.lower(), value)
    is_http10 = version == "1.0"
    length = _body_length(headers, is_http10, body_bytes_max)
    return Head(raw, parser.get_method(), collector.target, collector.fields, headers, length, is_http10)


def path_of(target: bytes) -> bytes:
    """The path in a request target: the query goes, and so do scheme and host of an absolute target."""
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        if separator:
            target = rest[slash:] if (slash := rest.find(b"/")) >= 0 else b"/"
    return target.partition(b"?")[0]


def _body_length(headers: Mapping[bytes, bytes], is_http10: bool, body_bytes_max: int) -> int:
    coding = headers.get(b"transfer-encoding")
    text = headers.get(b"content-length")
    if coding is not None:
        if is_http10:
            raise Refusal(400, "malformed request: Transfer-Encoding must not stand in HTTP/1.0")
        if coding.strip().lower() != b"chunked":
            raise Refusal(400, f"transfer coding '{coding.decode('latin-1')}' is not supported, expected 'chunked'")
        if text is None:
            return CHUNKED
    if text is None:
        return 0
    if not _DIGITS.match(text):
        raise Refusal(400, f"Unable to parse Content-Length, got: {text.decode('latin-1')}")
    length = int(text)
    if length > _INT32_MAX:
        raise Refusal(
            400,
            "Unable to parse Content-Length, value is out of range "
            f"[ {-_INT32_MAX - 1}, {_INT32_MAX} ], got: {text.decode('latin-1')}",
        )
    if length > body_bytes_max:
        raise Refusal(400, f"request body of {length} bytes exceeds the maximum of {body_bytes_max} bytes")
    return length if coding is None else CHUNKED


class _Collector:
    """llhttp's callbacks."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))
