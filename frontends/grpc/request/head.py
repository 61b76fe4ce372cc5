"""Request heads: from a header block to the method, the timeout and the encoding of a call.

    block ──HeaderBlocks──▶ fields ──┬─ those that say how the call is served ──▶ Meaning, remembered by what they say
                                     ├─ its timeout
                                     └─ all others, which are the caller's: only kept

So a new trace context or another timeout with each call costs its own reading and no more. A block that equals one
before is not read at all, as long as no block has changed the table; nor is the beginning of one that refers to fields
of the table, which is the same with nearly each call of a connection. Blocks that say more are not remembered: most of
them are new each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from grpclib.metadata import decode_metadata, decode_timeout

from ....schema.memo import Memo
from ..wire.header_block import Field, HeaderBlocks, Vocabulary, references_end
from ..wire.reply import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .port import Method

_BLOCKS_MAX: Final = 64
_BLOCK_BYTES_MAX: Final = 64 * 1024
"""Of all blocks that a connection remembers, and of what they say, which may be much more."""
_UNKNOWN, _UNIMPLEMENTED, _UNAVAILABLE = 2, 12, 14
_CONNECTION_HEADERS: Final = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_OWN, _PSEUDO, _SERVING, _TIMEOUT = range(4)
"""Kinds of fields: the caller's own, HTTP/2's, those that say how a call is served, and its timeout."""
_LATE: Final = Field(":late", "", _PSEUDO, 0)
"""Stands before a pseudo-header that comes too late: there is none of its name."""


class Meaning:
    """What the fields say that decide how a call is served. Shared by all calls with such fields: read only."""

    __slots__ = ("encoding", "is_plain", "malformed", "method", "refusal")

    def __init__(
        self, fields: Sequence[Field], methods: Mapping[str, Method], restricted: Mapping[str, tuple[str, str]]
    ) -> None:
        said = {field.name: field.value for field in fields}
        self.method = methods.get(said.get(":path", ""))
        self.encoding = said.get("grpc-encoding", "identity")
        self.refusal: bytes | None = None
        """The reply to a head that no handler will see."""
        self.malformed = _is_malformed(fields, said)
        """HTTP/2 forbids such a head: the stream is reset."""
        if said.get(":method") != "POST":
            self.refusal = refusal(_UNKNOWN, "Bad :method header, expected POST", http_status=405)
        elif not _is_grpc(said.get("content-type", "")):
            self.refusal = refusal(_UNKNOWN, "Missing or invalid content-type header", http_status=415)
        elif self.method is None:
            self.refusal = refusal(_UNIMPLEMENTED)
        elif self.encoding not in ("identity", "deflate", "gzip"):
            text = f"Compression algorithm '{self.encoding}' is unknown or disabled."
            self.refusal = refusal(_UNIMPLEMENTED, text, accept_encoding=True)
        elif restricted and (key := restricted.get(said[":path"])) is not None and not _carries(fields, *key):
            self.refusal = refusal(_UNAVAILABLE, f"This protocol is restricted, expecting header '{key[0]}'")
        self.is_plain = self.refusal is None and not self.malformed
        self.is_plain = self.is_plain and self.method is not None and not self.method.is_streaming


class Head:
    """What a header block says. Shared by all calls that sent the same block: read only."""

    __slots__ = (
        "_metadata",
        "encoding",
        "fields",
        "is_plain",
        "malformed",
        "meaning",
        "method",
        "refusal",
        "size",
        "timeout",
        "timeout_s",
    )

    def __init__(self, fields: Sequence[Field], meaning: Meaning, timeout: str | None, size: int) -> None:
        self.fields = fields
        self.size = size
        """Of the fields, as the protocol counts."""
        self._metadata: Any = None
        self.meaning = meaning
        self.method = meaning.method
        self.encoding = meaning.encoding
        self.refusal = meaning.refusal
        """The reply to a head that no handler will see."""
        self.malformed = meaning.malformed
        """HTTP/2 forbids such a head: the stream is reset."""
        self.is_plain = meaning.is_plain
        """It opens a call that somebody serves when its one message is there."""
        self.timeout = timeout
        self.timeout_s: float | None = None
        if timeout is not None:
            try:
                self.timeout_s = decode_timeout(timeout)
            except ValueError:
                self.is_plain = False
                if self.refusal is None:
                    self.refusal = refusal(_UNKNOWN, "Invalid grpc-timeout header", http_status=400)

    def field(self, name: str) -> str:
        """The value of a header, "" if there is none."""
        return next((field.value for field in self.fields if field.name == name), "")

    def forwardable(self) -> list[tuple[str, str]]:
        """The caller's metadata, without what belongs to the transport."""
        return [
            (field.name, field.value)
            for field in self.fields
            if field.name[:1] != ":" and not field.name.startswith("grpc-") and field.name not in ("te", "content-type")
        ]

    @property
    def metadata(self) -> Any:
        """The caller's metadata, as grpclib gives it (a MultiDict)."""
        if self._metadata is None:
            self._metadata = decode_metadata([(field.name, field.value) for field in self.fields])
        return self._metadata


def _carries(fields: Sequence[Field], key: str, value: str) -> bool:
    return any(field.name == key.lower() and field.value == value for field in fields)


def _is_grpc(content_type: str) -> bool:
    return content_type == "application/grpc" or content_type.startswith(
        ("application/grpc+proto", "application/grpc;")
    )


def _is_malformed(fields: Sequence[Field], said: Mapping[str, str]) -> bool:
    regular = False
    pseudo: set[str] = set()
    for field in fields:
        name = field.name
        if name[:1] == ":":
            if regular or name in pseudo or name not in (":method", ":scheme", ":path", ":authority"):
                return True
            pseudo.add(name)
        else:
            regular = True
            if name != name.lower() or name in _CONNECTION_HEADERS or (name == "te" and field.value != "trailers"):
                return True
    return not said.get(":path") or ":method" not in said or ":scheme" not in said


class Meanings:
    """What heads of one server mean, whatever connection they come on."""

    def __init__(self, methods: Mapping[str, Method], restricted: Mapping[str, tuple[str, str]]) -> None:
        """`restricted`: path -> the header and the value that calls of it must carry."""
        self._methods = methods
        self._restricted = restricted
        self._serving = {"te", "content-type", "grpc-encoding", *_CONNECTION_HEADERS}
        self._serving |= {key.lower() for key, _ in restricted.values()}
        self._known: Memo[tuple[Field, ...], Meaning] = Memo(count_max=256, bytes_max=256 * 1024, text_bytes_max=1024)
        self.vocabulary = Vocabulary(self.kind_of)

    def kind_of(self, name: str) -> int:
        """What fields of that name are to `of`."""
        if name[:1] == ":":
            return _PSEUDO
        if name == "grpc-timeout":
            return _TIMEOUT
        return _SERVING if name in self._serving or name != name.lower() else _OWN

    def head(self, fields: Sequence[Field], size: int) -> Head:
        """What the fields of a block say, which count `size`."""
        deciding: list[Field] = []
        timeout: str | None = None
        regular = False
        for field in fields:
            kind = field.kind
            if kind == _OWN:
                regular = True
            elif kind == _TIMEOUT:
                regular = True
                timeout = field.value
            else:
                if regular and kind == _PSEUDO:
                    deciding.append(_LATE)
                deciding.append(field)
        key = tuple(deciding)
        meaning = self._known.get(key)
        if meaning is None:
            meaning = Meaning(deciding, self._methods, self._restricted)
            self._known.keep(key, meaning, sum(field.size for field in deciding))
        return Head(fields, meaning, timeout, size)


class HeadReader:
    """One connection's heads."""

    __slots__ = ("_blocks", "_known", "_meanings")

    def __init__(self, meanings: Meanings, list_bytes_max: int) -> None:
        self._meanings = meanings
        self._blocks = HeaderBlocks(list_bytes_max, meanings.vocabulary)
        self._known: Memo[bytes, Head] = Memo(
            count_max=_BLOCKS_MAX, bytes_max=_BLOCK_BYTES_MAX, text_bytes_max=_BLOCK_BYTES_MAX
        )
        """Of blocks that the table has all fields of, and of the beginnings of others."""

    def read(self, block: bytes) -> Head:
        """The head in `block`. Raises Http2Error, after which no further block can be read."""
        known = self._known
        head = known.get(block)
        if head is not None:
            return head
        blocks = self._blocks
        at = references_end(block)
        first = known.get(block[:at])
        if first is None:
            first = self._meanings.head(blocks.decode(block[:at]), blocks.size)
            known.keep(block[:at], first, at + first.size)
        if at == len(block):
            return first
        changes = blocks.changes
        fields = blocks.decode(block, at, first.size)
        if blocks.changes != changes:
            known.clear()
        for field in fields:
            if field.kind != _OWN:
                return self._meanings.head([*first.fields, *fields], blocks.size)
        return Head([*first.fields, *fields], first.meaning, first.timeout, blocks.size)
