"""What stands for an answer: a digest over everything that it depends on.

That is the model, its version and what tells this load of it from others (`generation`), every input with name,
datatype, shape and bytes, the outputs asked for, the request's parameters, and to which sequence it says that it
belongs. Not the request's id, priority and timeout, nor where its tensors lie. Every part is preceded by its length, so
no two lists of parts run into each other.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ....schema.inference import InferenceRequest
    from ....schema.tensor import Buffer

DIGEST_BYTES: Final = 20
"""Two of 2^60 answers have the same key with a probability of 1 in 2^41."""

PARAMETER: Final = "despina_cache"
"""The request parameter that says how the cache is used. It is no part of the key."""


class Keys:
    """Of one version of one model."""

    def __init__(self, name: str, version: int, generation: str) -> None:
        self.generation = generation
        self._seed = _digest((name.encode(), b"%d" % version, generation.encode()))

    def of(self, request: InferenceRequest) -> str:
        """The key of the request's answer. Reads inputs in shared memory: it may raise InvalidArgument. From any
        thread; about 1 ns a byte."""
        digest = self._seed.copy()
        parts: list[Buffer] = []
        inputs = request.inputs
        for name in sorted(inputs):
            tensor = inputs[name]
            shape = ",".join(map(str, tensor.shape))
            parts += (b"input", name.encode(), tensor.datatype.encode(), shape.encode(), tensor.memory())
        for name in sorted({*request.outputs}):
            parts += (b"output", name.encode("utf-8", "surrogatepass"))
        for name, value in sorted((request.parameters or {}).items()):
            if name != PARAMETER:
                said = f"{type(value).__name__} {value!r}"
                parts += (b"parameter", name.encode("utf-8", "surrogatepass"), said.encode("utf-8", "surrogatepass"))
        if request.correlation_id or request.sequence_start or request.sequence_end:
            said = f"{request.correlation_id!r} {request.sequence_start} {request.sequence_end}"
            parts += (b"sequence", said.encode("utf-8", "surrogatepass"))
        _add(digest, parts)
        return digest.hexdigest()


def _digest(parts: Iterable[Buffer]) -> blake2b:
    digest = blake2b(digest_size=DIGEST_BYTES)
    _add(digest, parts)
    return digest


def _add(digest: blake2b, parts: Iterable[Buffer]) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
