"""The parts of the protobuf wire format that do not depend on a message: varints, tags and how to step over a field.

Reading functions take a buffer `b` and an index `i` and return what they read with the index behind it. They raise
`Malformed` for what no encoder writes; running off the buffer's end raises IndexError, which `codec.decode` renames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..tensor import Buffer

DEPTH_MAX: Final = 100
"""Messages and groups may nest this deep, counted from the outermost message."""

ONE_BYTE: Final = tuple(bytes((value,)) for value in range(128))


class Malformed(ValueError):
    """Bytes that are not an encoding of the message."""


def read_varint(b: Buffer, i: int) -> tuple[int, int]:
    """An unsigned 64-bit value: at most ten bytes, bits beyond the 64th dropped."""
    value = shift = 0
    while True:
        byte = b[i]
        i += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, i
        shift += 7
        if shift > 63:
            raise Malformed("varint longer than ten bytes")


def read_tag(b: Buffer, i: int) -> tuple[int, int]:
    """A field's tag: at most five bytes and 32 bits."""
    value, end = read_varint(b, i)
    if end - i > 5 or value > 0xFFFFFFFF:
        raise Malformed("tag wider than 32 bits")
    return value, end


def skip_field(b: Buffer, i: int, tag: int, depth: int) -> int:
    """The index behind the value of a field that is not known. `depth` is that of the message it stands in."""
    if tag < 8:
        raise Malformed("field number 0")
    wire_type = tag & 7
    if wire_type == 0:
        return read_varint(b, i)[1]
    if wire_type == 1:
        return i + 8
    if wire_type == 2:
        size, i = read_varint(b, i)
        return i + size
    if wire_type == 3:
        return _skip_group(b, i, tag, depth + 1)
    if wire_type == 5:
        return i + 4
    raise Malformed(f"wire type {wire_type}")


def _skip_group(b: Buffer, i: int, opening: int, depth: int) -> int:
    """The index behind the end tag that belongs to `opening`. A loop, so that depth costs no stack."""
    open_tags = [opening]
    end = len(b)
    while open_tags:
        if depth + len(open_tags) - 1 > DEPTH_MAX:
            raise Malformed("groups nested too deep")
        if i >= end:
            raise Malformed("truncated group")
        tag, i = read_tag(b, i)
        if tag & 7 == 4:
            if tag != open_tags.pop() + 1:
                raise Malformed("group closed by another's end")
        elif tag & 7 == 3:
            if tag < 8:
                raise Malformed("field number 0")
            open_tags.append(tag)
        else:
            i = skip_field(b, i, tag, depth)
    return i


def varint(value: int) -> bytes:
    """The encoding of an integer of up to 64 bits; negative ones take ten bytes."""
    if value < 0:
        value += 1 << 64
    if value < 128:
        return ONE_BYTE[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
