"""The head of a reply. The protocol has no `Server` and no `Date`, and calls 405 `Not Allowed`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..request.request import Field

UNFINISHED: Final = (503, "the server is stopping: the rest of the request did not come in time")

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus} | {405: b"Not Allowed"}
_beginnings: dict[tuple[int, bytes], bytes] = {}
"""Status line and content type, as often as handlers name different ones."""


def slow_body(rate_min: int) -> str:
    """The words of a 408."""
    return f"the request body arrives at less than {rate_min} bytes per second"


def head_of_stream(status: int, content_type: bytes, *, is_chunked: bool, closes: bool) -> bytes:
    """The same for a reply whose length is not known yet. Without chunks it ends with the connection."""
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n%b%b\r\n" % (
        status,
        _REASONS.get(status, b"Unknown"),
        content_type,
        b"Transfer-Encoding: chunked\r\n" if is_chunked else b"",
        b"Connection: close\r\n" if closes else b"",
    )


def beginning_of_reply(status: int, content_type: bytes) -> bytes:
    """Up to the number of bytes in the body."""
    reason = _REASONS.get(status, b"Unknown")
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: " % (status, reason, content_type)


def head_of_reply(
    status: int,
    content_type: bytes,
    size: int,
    fields: Sequence[Field],
    keep_mark: bool | None = False,
) -> bytes:
    """Status line, headers and the empty line.

    `keep_mark`: False says nothing (HTTP/1.1 stays open by default), True says `keep-alive` (HTTP/1.0 asked for it),
    None says `close`.
    """
    beginning = _beginnings.get((status, content_type))
    if beginning is None:
        beginning = _beginnings[status, content_type] = beginning_of_reply(status, content_type)
    digits = str(size).encode()
    if not fields and keep_mark is False:
        return b"%b%b\r\n\r\n" % (beginning, digits)
    rest = b""
    for field in fields:
        rest += b"%b: %b\r\n" % field
    if keep_mark is not False:
        rest += b"Connection: keep-alive\r\n" if keep_mark else b"Connection: close\r\n"
    return b"%b%b\r\n%b\r\n" % (beginning, digits, rest)
