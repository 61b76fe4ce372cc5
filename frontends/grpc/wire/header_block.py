"""Header blocks from the peer: HPACK decoded in one loop, with a table that remembers what each field is to us.

A field is looked at once, when it enters the table; most fields of most blocks are references to those, and come before
all others. Huffman codes, which gRPC's C core does not send, are the library's affair. Tests hold the whole to the
library, field by field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from .constants import ErrorCode, Http2Error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FIELD_BYTES: Final = 32
"""What a field counts besides its name and value."""
_TABLE_BYTES_MAX: Final = 4096
"""We announce no other size."""
_TO_INDEX: Final = bytes(byte & 0x7F for byte in range(256))
_MORE_BYTES_MAX: Final = 5
"""Of an integer that does not fit its prefix."""


class Field(NamedTuple):
    """One header."""

    name: str
    value: str
    kind: int
    """What it is to who made the table."""
    size: int


class Vocabulary:
    """What headers are to one server, whatever connection they come on."""

    def __init__(self, kind_of: Callable[[str], int]) -> None:
        """`kind_of` says of a header's name what kind its fields are."""
        self._kind_of = kind_of
        self.static = (Field("", "", 0, 0), *(self.field(*entry) for entry in HeaderTable.STATIC_TABLE))
        """The fields that everybody knows, by index. The first is none: no block may refer to it."""

    def field(self, name: bytes, value: bytes) -> Field:
        """The one with this name and value. Raises ValueError where they are no text."""
        text = str(name, "utf-8")
        return Field(text, str(value, "utf-8"), self._kind_of(text), len(name) + len(value) + _FIELD_BYTES)


class HeaderBlocks:
    """One connection's decoder."""

    __slots__ = (
        "_by_index",
        "_dynamic",
        "_list_bytes_max",
        "_table_bytes",
        "_table_bytes_max",
        "_vocabulary",
        "changes",
        "size",
    )

    def __init__(self, list_bytes_max: int, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._list_bytes_max = list_bytes_max
        self._dynamic: list[Field] = []
        """Oldest first: the last one has the lowest index."""
        self._by_index: Sequence[Field] = vocabulary.static
        self._table_bytes = 0
        self._table_bytes_max = _TABLE_BYTES_MAX
        self.changes = 0
        """Counts what makes equal blocks mean something else."""
        self.size = 0
        """Of all fields of the last block, as the protocol counts."""

    def decode(self, block: bytes, at: int = 0, size: int = 0) -> list[Field]:
        """The fields in order; those of block[at:] if the ones before it have been decoded and count `size`. Raises
        Http2Error, after which the table cannot be trusted any more."""
        try:
            fields = self._decode(block, at)
        except (HPACKError, IndexError, ValueError) as error:
            raise Http2Error(ErrorCode.COMPRESSION_ERROR, "header block cannot be decoded") from error
        # What is in the list is in the table or in the block, so that even a large one is small until it is read.
        for field in fields:
            size += field.size
        self.size = size
        if self.size > self._list_bytes_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "header list too large")
        return fields

    def _decode(self, block: bytes, at: int) -> list[Field]:
        fields: list[Field] = []
        table = self._by_index
        field_of = self._vocabulary.field
        begin, end = at, len(block)
        while at < end:
            byte = block[at]
            if byte > 0x80:
                stop = references_end(block, at)
                if stop > at:
                    fields.extend(map(table.__getitem__, block[at:stop].translate(_TO_INDEX)))
                    at = stop
                else:
                    index, at = _more(block, at + 1, 0x7F)
                    fields.append(table[index])
                continue
            at += 1
            if byte & 0xE0 == 0x20:
                if fields or begin:
                    raise ValueError("a size of the table amid fields")
                size = byte & 0x1F
                if size == 0x1F:
                    size, at = _more(block, at, size)
                table = self._resize(size)
                continue
            if byte == 0x80:
                raise ValueError("a reference to nothing")
            mask = 0x3F if byte & 0x40 else 0x0F
            index = byte & mask
            if index == mask:
                index, at = _more(block, at, index)
            if index:
                name = table[index].name.encode()
            else:
                size = block[at]
                at += 1
                if size < 0x7F:
                    name = block[at : at + size]
                    at += size
                else:
                    name, at = _text(block, at, size)
            size = block[at]
            at += 1
            if size < 0x7F:
                value = block[at : at + size]
                at += size
            else:
                value, at = _text(block, at, size)
            if at > end:
                raise ValueError("a truncated text")
            field = field_of(name, value)
            fields.append(field)
            if byte & 0x40:
                table = self._insert(field)
        return fields

    def _insert(self, field: Field) -> Sequence[Field]:
        self._table_bytes += field.size
        self._dynamic.append(field)
        return self._evict()

    def _resize(self, size: int) -> Sequence[Field]:
        if size > _TABLE_BYTES_MAX:
            raise ValueError("a table larger than allowed")
        self._table_bytes_max = size
        return self._evict()

    def _evict(self) -> Sequence[Field]:
        """The table, with what fits it. A field that is larger than the table leaves it empty."""
        count = 0
        while self._table_bytes > self._table_bytes_max:
            self._table_bytes -= self._dynamic[count].size
            count += 1
        del self._dynamic[:count]
        self.changes += 1
        self._by_index = (*self._vocabulary.static, *reversed(self._dynamic))
        return self._by_index


def references_end(block: bytes, at: int = 0) -> int:
    """The index behind the fields from `at` on that the table has, one byte each."""
    end = len(block)
    while at < end and 0x80 < block[at] < 0xFF:
        at += 1
    return at


def _more(block: bytes, at: int, value: int) -> tuple[int, int]:
    """An integer whose prefix is full, and the index behind it."""
    shift = 0
    for byte in block[at : at + _MORE_BYTES_MAX]:
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("an integer that does not end")


def _text(block: bytes, at: int, size: int) -> tuple[bytes, int]:
    """A long text, or one in codes, behind the byte `size`, and the index behind it."""
    coded = size > 0x7F
    size &= 0x7F
    if size == 0x7F:
        size, at = _more(block, at, size)
    stop = at + size
    if stop > len(block):
        raise ValueError("a truncated text")
    data = block[at:stop]
    return decode_huffman(data) if coded else data, stop
