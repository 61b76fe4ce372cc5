"""An answer as bytes, to be kept, and back.

    head_size u32 | head: JSON of outputs [[name, datatype, shape, size], ...] and parameters | the outputs' bytes

What a server elsewhere keeps is sealed besides: a digest over the key and the entry stands before it, so an entry that
was damaged, cut off, or kept for another key is none.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from ....schema.tensor import Tensor

if TYPE_CHECKING:
    from ....schema.inference import InferenceResponse, Parameter
    from ....schema.tensor import Buffer

MAGIC: Final = b"dspn1"
SEAL_BYTES: Final = len(MAGIC) + 16


class Answer:
    """What is kept of a response."""

    __slots__ = ("outputs", "parameters")

    def __init__(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None) -> None:
        self.outputs = outputs
        self.parameters = parameters


def encode(response: InferenceResponse) -> bytes:
    """The response but for its id. Raises Exception for what has no such form."""
    for name, value in (response.parameters or {}).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"parameter '{name}' is {value}, which JSON lacks")
    outputs = response.outputs
    wires = [tensor.memory() for tensor in outputs]
    head = orjson.dumps(
        [
            [
                [tensor.name, tensor.datatype, [int(size) for size in tensor.shape], len(wire)]
                for tensor, wire in zip(outputs, wires, strict=True)
            ],
            response.parameters,
        ]
    )
    return b"".join((len(head).to_bytes(4, "little"), head, *wires))


def decode(entry: Buffer) -> Answer:
    """The outputs are views of the entry. Raises Exception for what `encode` has not made."""
    view = memoryview(entry)
    at = 4 + int.from_bytes(view[:4], "little")
    head: list[Any] = orjson.loads(view[4:at])
    described, parameters = head
    outputs = []
    for name, datatype, shape, size in described:
        if not 0 <= size <= len(view) - at:
            raise ValueError(f"output '{name}' of {size} bytes goes beyond the entry's end")
        outputs.append(Tensor(name, datatype, tuple(shape), view[at : at + size]))
        at += size
    if at != len(view):
        raise ValueError(f"{len(view) - at} bytes belong to no output")
    return Answer(outputs, parameters)


def seal(key: str, entry: bytes) -> bytes:
    return b"".join((MAGIC, _digest(key, entry), entry))


def unseal(key: str, sealed: Buffer) -> Buffer:
    """The entry. Raises ValueError for what was not sealed with that key."""
    view = memoryview(sealed)
    entry = view[SEAL_BYTES:]
    if bytes(view[:SEAL_BYTES]) != MAGIC + _digest(key, entry):
        raise ValueError("the entry is damaged, or of another key or make")
    return entry


def _digest(key: str, entry: Buffer) -> bytes:
    digest = blake2b(key.encode(), digest_size=16)
    digest.update(entry)
    return digest.digest()
