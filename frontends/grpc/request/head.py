"""Request heads: from an HPACK block to the method, the timeout and the encoding of a call.

A warm client's block is a few bytes of table references and always the same, so decoded heads are remembered by block.
That is right only while the decoder's dynamic table stays as it is: a block that changes the table empties the memo,
and blocks that could change it are never remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpclib.metadata import decode_metadata, decode_timeout
from hpack import Decoder, HPACKError, OversizedHeaderListError

from ..wire.constants import ErrorCode, Http2Error
from ..wire.reply import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .port import Method

_MEMO_ENTRIES_MAX = 64
_MEMO_BYTES_MAX = 64 * 1024
"""Of all blocks that are remembered, and of what they say, which may be much more."""
_FIELD_BYTES = 32
"""What a field counts besides its name and value, as in HPACK."""
_UNKNOWN, _UNIMPLEMENTED, _UNAVAILABLE = 2, 12, 14
_CONNECTION_HEADERS = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}


class Head:
    """What a header block says. Shared by all calls that sent the same block: read only."""

    __slots__ = ("_headers", "_metadata", "encoding", "malformed", "method", "refusal", "timeout_s")

    def __init__(
        self,
        headers: list[tuple[str, str]],
        methods: Mapping[str, Method],
        restricted: Mapping[str, tuple[str, str]],
    ) -> None:
        fields = dict(headers)
        self._headers = headers
        self._metadata: Any = None
        self.method = methods.get(fields.get(":path", ""))
        self.encoding = fields.get("grpc-encoding", "identity")
        self.timeout_s: float | None = None
        self.refusal: bytes | None = None
        """The reply to a head that no handler will see."""
        self.malformed = _is_malformed(headers, fields)
        """HTTP/2 forbids such a head: the stream is reset."""
        timeout = fields.get("grpc-timeout")
        if timeout is not None:
            try:
                self.timeout_s = decode_timeout(timeout)
            except ValueError:
                self.refusal = refusal(_UNKNOWN, "Invalid grpc-timeout header", http_status=400)
        if fields.get(":method") != "POST":
            self.refusal = refusal(_UNKNOWN, "Bad :method header, expected POST", http_status=405)
        elif not _is_grpc(fields.get("content-type", "")):
            self.refusal = refusal(_UNKNOWN, "Missing or invalid content-type header", http_status=415)
        elif self.method is None:
            self.refusal = refusal(_UNIMPLEMENTED)
        elif self.encoding not in ("identity", "deflate", "gzip"):
            text = f"Compression algorithm '{self.encoding}' is unknown or disabled."
            self.refusal = refusal(_UNIMPLEMENTED, text, accept_encoding=True)
        elif restricted and (key := restricted.get(fields[":path"])) is not None and not _carries(headers, *key):
            self.refusal = refusal(_UNAVAILABLE, f"This protocol is restricted, expecting header '{key[0]}'")

    def field(self, name: str) -> str:
        """The value of a header, "" if there is none."""
        return next((value for key, value in self._headers if key == name), "")

    def forwardable(self) -> list[tuple[str, str]]:
        """The caller's metadata, without what belongs to the transport."""
        return [
            (name, value)
            for name, value in self._headers
            if name[:1] != ":" and not name.startswith("grpc-") and name not in ("te", "content-type")
        ]

    @property
    def metadata(self) -> Any:
        """The caller's metadata, as grpclib gives it (a MultiDict)."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._headers)
        return self._metadata


def _carries(headers: list[tuple[str, str]], key: str, value: str) -> bool:
    return (key.lower(), value) in headers


def _is_grpc(content_type: str) -> bool:
    return content_type == "application/grpc" or content_type.startswith(
        ("application/grpc+proto", "application/grpc;")
    )


def _is_malformed(headers: list[tuple[str, str]], fields: dict[str, str]) -> bool:
    regular = False
    pseudo: set[str] = set()
    for name, value in headers:
        if name[:1] == ":":
            if regular or name in pseudo or name not in (":method", ":scheme", ":path", ":authority"):
                return True
            pseudo.add(name)
        else:
            regular = True
            if name != name.lower() or name in _CONNECTION_HEADERS or (name == "te" and value != "trailers"):
                return True
    return not fields.get(":path") or ":method" not in fields or ":scheme" not in fields


class HeadReader:
    """One connection's HPACK decoder and the heads it has decoded."""

    __slots__ = ("_decoder", "_memo", "_memo_bytes", "_methods", "_on_forgotten", "_restricted")

    def __init__(
        self,
        methods: Mapping[str, Method],
        list_bytes_max: int,
        restricted: Mapping[str, tuple[str, str]],
        on_forgotten: Callable[[], None],
    ) -> None:
        """`restricted`: path -> the header and the value that calls of it must carry. `on_forgotten` is called when
        blocks may mean something else than before."""
        self._on_forgotten = on_forgotten
        self._restricted = restricted
        self._decoder = Decoder(max_header_list_size=list_bytes_max)
        self._methods = methods
        self._memo: dict[bytes, Head] = {}
        self._memo_bytes = 0

    def known(self, block: bytes) -> Head | None:
        """What `read` would give without reading."""
        return self._memo.get(block)

    def read(self, block: bytes) -> Head:
        """The head in `block`. Raises Http2Error, after which the decoder's table cannot be trusted any more."""
        head = self._memo.get(block)
        if head is not None:
            return head
        entries = self._decoder.header_table.dynamic_entries
        count, newest = len(entries), entries[0] if entries else None
        try:
            headers = self._decoder.decode(block)
        except OversizedHeaderListError as error:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from error
        except (HPACKError, UnicodeDecodeError, IndexError, ValueError) as error:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, "header block cannot be decoded") from error
        head = Head([(str(name), str(value)) for name, value in headers], self._methods, self._restricted)
        changed = len(entries) != count or (entries[0] if entries else None) is not newest
        if changed or (block and block[0] & 0xE0 == 0x20):
            self._memo.clear()
            self._memo_bytes = 0
            self._on_forgotten()
        elif len(self._memo) < _MEMO_ENTRIES_MAX:
            size = len(block) + sum(_FIELD_BYTES + len(name) + len(value) for name, value in headers)
            if self._memo_bytes + size <= _MEMO_BYTES_MAX:
                self._memo_bytes += size
                self._memo[block] = head
        return head
