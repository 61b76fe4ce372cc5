"""Protobuf for the generated messages, fast: one specialised decoder and encoder per message class.

`decode(cls, data)` and `encode(message)` mean what the reference implementation means (unknown fields kept, the last of
several singular values wins, split submessages merge, packed and unpacked lists both read, ...), but `bytes` fields of
a decoded message are memoryviews of `data`, and large `bytes` fields are handed to the encoder's caller uncopied.

The code is made at a class's first use, from the field metadata that betterproto2 keeps on it (see codec_source.py).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..text import encodable
from .codec_source import decoder_source, encoder_source, referenced_classes
from .varint import ONE_BYTE, Malformed, read_tag, read_varint, skip_field, varint

if TYPE_CHECKING:
    from collections.abc import Callable

    import betterproto2

    from ..tensor import Buffer

__all__ = ["Malformed", "decode", "encode", "encode_to_bytes"]

M = TypeVar("M", bound="betterproto2.Message")

_Decoder = Any  # (b, view, i, end, into, depth) -> message
_Encoder = Any  # (message, out) -> byte size

_compiled: Final[dict[type, tuple[_Decoder, _Encoder]]] = {}


def decode(cls: type[M], data: Buffer) -> M:
    """The message that `data` encodes; its `bytes` fields are views that keep `data` alive.

    Raises `Malformed` for truncated or impossible bytes and for text that is not UTF-8.
    """
    codec = _compiled.get(cls) or _compile(cls)
    size = len(data)
    try:
        return codec[0](data, memoryview(data), 0, size, None, 0)  # type: ignore[no-any-return]
    except (IndexError, struct.error) as error:
        raise Malformed("truncated message") from error
    except UnicodeDecodeError as error:
        raise Malformed("text is not UTF-8") from error


def encode(message: betterproto2.Message) -> tuple[list[Buffer], int]:
    """The encoding as buffers to be sent one after another, and their size in bytes. Text that UTF-8 cannot have goes
    out with the replacement character."""
    codec = _compiled.get(type(message)) or _compile(type(message))
    out: list[Buffer] = []
    size: int = codec[1](message, out)
    return out, size


def encode_to_bytes(message: betterproto2.Message) -> bytes:
    return b"".join(encode(message)[0])


def _compile(cls: type) -> tuple[_Decoder, _Encoder]:
    """Compiles `cls` and every class it refers to; classes may refer to each other in circles."""
    scopes: dict[type, dict[str, Any]] = {}
    waiting = [cls]
    while waiting:
        one = waiting.pop()
        if one in scopes or one in _compiled:
            continue
        scope: dict[str, Any] = {
            "cls": one,
            "new": one.__new__,
            "struct": struct,
            "Malformed": Malformed,
            "encodable": encodable,
            "ONE_BYTE": ONE_BYTE,
            "read_tag": read_tag,
            "read_varint": read_varint,
            "skip_field": skip_field,
            "varint": varint,
        }
        source = decoder_source(one, scope) + encoder_source(one, scope)
        exec(compile("\n".join(source), f"<codec of {one.__name__}>", "exec"), scope)
        scopes[one] = scope
        waiting.extend(referenced_classes(one).values())
    for one, scope in scopes.items():
        _compiled[one] = (scope["decode"], scope["encode"])
    for one, scope in scopes.items():
        for name, target in referenced_classes(one).items():
            link: tuple[Callable[..., Any], Callable[..., Any]] = _compiled[target]
            scope[f"decode_{name}"], scope[f"encode_{name}"] = link
    return _compiled[cls]
