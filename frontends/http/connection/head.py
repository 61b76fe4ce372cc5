"""The head of a request: request line and headers, and which of them are accepted.

Refused with 400: anything that two parsers could read in two ways (bare LF or CR, folded headers, blanks before the
colon, NUL and other control characters, a repeated or odd Content-Length, Transfer-Encoding more than once), methods
that HTTP does not have, versions other than 1.0 and 1.1. Transfer codings other than `chunked` are 400 too, not 501:
what cannot be framed must not look like our failure. Content-Length beside `chunked`, which clients send that know
both, is read as chunks; nothing that follows on the connection is, so that nobody can hide a request there.

A head is held to the grammar as a whole, by one expression, and another finds the lines that tell this door anything.
Heads share what they say if their telling lines are the same but for the lengths. One that comes twice is remembered
whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ....schema.memo import Memo
from ..request.notes import Notes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..request.request import Field
    from ..settings import HttpSettings

CHUNKED: Final = -1
"""The `length` of a body whose size only its chunks tell."""
_ONCE_MAX: Final = 1024
"""Heads that came once and are known by a mark only: most of those that say something new never come again."""

_TELLING: Final = b"accept-encoding connection content-encoding expect transfer-encoding".split()
"""What decides how requests are framed and handled, beside lengths; with the keys of restricted APIs. Other headers are
read when somebody asks for them, for traces and parameters."""
_METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE NOTIFY PROPFIND PROPPATCH PURGE QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK "
    b"UNLOCK UNSUBSCRIBE".split()
)
_REQUEST_LINE = re.compile(rb"([A-Z-]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])")
_TARGET = re.compile(rb"/|\*|[A-Za-z]+://")
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n")
_TELLING_LINES: Final = rb"\n(?:(content-length)|(inference-header-content-length)|(%b)):" + (
    rb"[ \t]*+([^ \t\r]*+(?:[ \t]++[^ \t\r]++)*+)"
)
"""In a head that is right: which of the two lengths, or which other name, and the value without blanks around it."""
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")
_INT32_MAX: Final = 2**31 - 1
_REPEATED: Final = "malformed request: Content-Length or Transfer-Encoding more than once"


class Refusal(Exception):
    """The request cannot be served, nor anything that follows it on this connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class HeadForm:
    """What heads have in common whose telling lines are the same but for lengths. Immutable but for its notes: requests
    share it, on any connection of a server."""

    __slots__ = ("expects_continue", "is_chunked", "is_http10", "keep_mark", "method", "notes", "path", "telling")

    def __init__(self, line: _RequestLine, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal for codings of the body that are not taken."""
        self.method, self.path, self.is_http10 = line
        self.telling = headers
        """By name in lower case, without the lengths; of repeated ones the first."""
        self.notes = Notes()
        coding = headers.get(b"transfer-encoding")
        self.is_chunked = coding is not None
        if coding is not None:
            if self.is_http10:
                raise Refusal(400, "malformed request: Transfer-Encoding must not stand in HTTP/1.0")
            if coding.lower() != b"chunked":
                raise Refusal(400, f"transfer coding '{coding.decode('latin-1')}' is not supported, expected 'chunked'")
        options = headers.get(b"connection", b"").lower()
        keep_alive = b"keep-alive" in options if self.is_http10 else b"close" not in options
        if self.method == b"CONNECT":
            keep_alive = False
        self.keep_mark: bool | None = self.is_http10 if keep_alive else None
        """What replies say of their connection, see status.py: None where it ends with them."""
        self.expects_continue = not self.is_http10 and headers.get(b"expect", b"").lower() == b"100-continue"

    def for_the_last(self) -> HeadForm:
        """The same, of a request after which its connection ends."""
        form = HeadForm((self.method, self.path, self.is_http10), self.telling)
        form.keep_mark = None
        return form


class Head:
    """What a head says. Immutable."""

    __slots__ = ("form", "header_length", "length")

    def __init__(self, form: HeadForm, length: int, header_length: bytes | None) -> None:
        self.form = form
        self.length = length
        """Bytes of the body, or CHUNKED."""
        self.header_length = header_length
        """Of the JSON in it, as it is told; None where it is not."""


class HeadReader:
    """One for all connections of a server."""

    def __init__(self, settings: HttpSettings) -> None:
        self.bytes_max = settings.head_bytes_max
        """Of a whole head."""
        self._count_max = settings.header_count_max
        self._body_bytes_max = settings.body_bytes_max
        self._heads: Memo[bytes, Head] = Memo(count_max=256, bytes_max=128 * 1024, text_bytes_max=2048)
        """By their texts."""
        self._forms: Memo[tuple[bytes | Field, ...], HeadForm] = Memo(
            count_max=256, bytes_max=128 * 1024, text_bytes_max=2048
        )
        """By their request lines and telling lines."""
        self.known = self._heads.get
        """What a text says that was read before; None for others, and for some of those."""
        names = [*_TELLING, *[re.escape(key[0]) for key in settings.restricted.values()]]
        self._telling = re.compile(_TELLING_LINES % b"|".join(names), re.IGNORECASE)
        self._once = [0] * _ONCE_MAX
        """Hashes of heads that were read once, by the last bits."""

    def read(self, text: bytes) -> Head:
        """What `text` says, which ends with the empty line. Raises Refusal."""
        if len(text) > self.bytes_max:
            raise Refusal(431, f"request head exceeds {self.bytes_max} bytes")
        count = text.count(b"\n") - 2
        if count > self._count_max:
            raise Refusal(431, f"request has {count} headers, at most {self._count_max} are accepted")
        end = text.find(b"\r\n")
        if _FIELDS.fullmatch(text, end + 2) is None:
            raise Refusal(400, "malformed request: a header is expected as NAME: VALUE on one line")
        told: bytes | None = None
        header_length: bytes | None = None
        others: list[Field] = []
        for is_length, is_header_length, name, value in self._telling.findall(text, end):
            if is_length:
                if told is not None:
                    raise Refusal(400, _REPEATED)
                told = value
            elif not is_header_length:
                others.append((name.lower(), value))
            elif header_length is None:
                header_length = value
        key: tuple[bytes | Field, ...] = (text[:end], *sorted(others))
        form = self._forms.get(key) or self._formed(key, others)
        length = 0 if told is None else _length_in(told, self._body_bytes_max)
        if form.is_chunked:
            length = CHUNKED
            if told is not None:
                form = form.for_the_last()
        head = Head(form, length, header_length)
        mark = hash(text)
        if self._once[mark % _ONCE_MAX] == mark:
            self._heads.keep(text, head, len(text))
        else:
            self._once[mark % _ONCE_MAX] = mark
        return head

    def _formed(self, key: tuple[bytes | Field, ...], telling: Sequence[Field]) -> HeadForm:
        first = key[0]
        assert type(first) is bytes, "the request line"
        headers = dict(telling[::-1])
        has_repeated = len(headers) < len(telling)
        if has_repeated and [name for name, _ in telling].count(b"transfer-encoding") > 1:
            raise Refusal(400, _REPEATED)
        form = HeadForm(_request_line(first), headers)
        if not has_repeated:  # else their order may matter
            self._forms.keep(key, form, len(first) + sum([len(name) + len(value) for name, value in telling]))
        return form


def fields_of(text: bytes) -> list[Field]:
    """The header lines of a head that was accepted, as received."""
    return [_field(line) for line in text[:-4].split(b"\r\n")[1:]]


def headers_of(fields: Sequence[Field]) -> dict[bytes, bytes]:
    """By name in lower case; of repeated ones the first."""
    return {name.lower(): value for name, value in reversed(fields)}


_RequestLine = tuple[bytes, bytes, bool]
"""Method, path, and whether it is HTTP/1.0."""


def _request_line(text: bytes) -> _RequestLine:
    """What it says. Raises Refusal for what is none."""
    found = _REQUEST_LINE.fullmatch(text)
    if found is None:
        raise Refusal(400, "malformed request: METHOD TARGET HTTP/VERSION is expected on the first line")
    method, target, version = found.groups()
    if method not in _METHODS:
        raise Refusal(400, f"malformed request: method {method.decode()} is not known")
    if method != b"CONNECT" and _TARGET.match(target) is None:
        raise Refusal(400, "malformed request: a target that begins with / is expected")
    if version not in (b"1.0", b"1.1"):
        raise Refusal(400, f"HTTP version {version.decode()} is not supported, expected 1.0 or 1.1")
    return method, path_of(target), version == b"1.0"


def _field(line: bytes) -> Field:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def path_of(target: bytes) -> bytes:
    """The path in a request target: the query goes, and so do scheme and host of an absolute target."""
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        if separator:
            target = rest[slash:] if (slash := rest.find(b"/")) >= 0 else b"/"
    return target.partition(b"?")[0]


def _length_in(text: bytes, body_bytes_max: int) -> int:
    """The number in a Content-Length. Raises Refusal."""
    if text.isdigit() and len(text) < 10:
        length = int(text.decode())
    else:
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
    return length
