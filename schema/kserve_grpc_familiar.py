"""The shortest way through a ModelInferRequest: one that differs from an earlier one in its tensors' bytes only.

    data = [ everything but the raw contents | tag, length | raw 0 | tag, length | raw 1 ]
             `prefix`, equal byte for byte     equal           free   equal           free

A message of the same size, with the same prefix and the same tags and lengths at the same places, parses to the same
fields: so only the raw contents are new. Clients send their requests this way, unless they number them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .inference import InferenceRequest, Template
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

_FAMILIAR_MAX = 256
_KEY_BYTES = 128
"""Of the beginning: parameters are there, and are what differs most between messages of one size."""
_PREFIX_BYTES_MAX = 2048
_INPUTS_MAX = 64
"""Each takes some hundred bytes to remember, and a prefix may name many."""


class Familiar:
    """What was remembered of one message."""

    __slots__ = ("id", "model_name", "model_version", "outputs", "parts", "prefix", "template", "with_parameters")

    def __init__(
        self, request: InferenceRequest, prefix: bytes, parts: list[tuple[Tensor, int, bytes, int, int]]
    ) -> None:
        self.model_name = request.model_name
        self.model_version = request.model_version
        self.id = request.id
        self.outputs = request.outputs
        self.prefix = prefix
        self.parts: list[tuple[str, str, Sequence[int], int, bytes, int, int]] = [
            (tensor.name, tensor.datatype, tensor.shape, head_at, head, start, stop)
            for tensor, head_at, head, start, stop in parts
        ]
        """For each input: name, datatype, shape, where its tag is, tag and length, where its contents begin and end."""
        self.template = Template()
        self.with_parameters = request.alike() if has_parameters(request) else None
        """A request that says the same besides its tensors, where there is more to say."""


_familiar: dict[int, Familiar] = {}
"""By the size of the whole message. Oldest first."""
_with_parameters: dict[tuple[int, bytes], Familiar] = {}
"""Those with parameters, by their size and beginning: callers whose sequences have ids of one length do not drive out
each other. Oldest first."""


def has_parameters(request: InferenceRequest) -> bool:
    """Whether it says more than its model, version, id, inputs and outputs."""
    return bool(
        request.correlation_id
        or request.sequence_start
        or request.sequence_end
        or request.priority
        or request.timeout_us
        or request.parameters
    )


def familiar_for(data: bytes) -> Familiar | None:
    """What `data` is like, None if that is not known."""
    familiar = _familiar.get(len(data))
    if familiar is None or not data.startswith(familiar.prefix):
        familiar = _with_parameters.get((len(data), data[:_KEY_BYTES]))
        if familiar is None or not data.startswith(familiar.prefix):
            return None
    if any(data[head_at:start] != head for _, _, _, head_at, head, start, _ in familiar.parts):
        return None
    return familiar


def read_familiar(data: bytes) -> InferenceRequest | None:
    """The request in `data` if one like it was remembered; its tensors are views of `data`."""
    familiar = _familiar.get(len(data))
    if familiar is None or not data.startswith(familiar.prefix):
        familiar = _with_parameters.get((len(data), data[:_KEY_BYTES]))
        if familiar is None or not data.startswith(familiar.prefix):
            return None
    view = memoryview(data)
    inputs: dict[str, Tensor] = {}
    for name, datatype, shape, head_at, head, start, stop in familiar.parts:
        if data[head_at:start] != head:
            return None
        inputs[name] = Tensor(name, datatype, shape, view[start:stop])
    if familiar.with_parameters is not None:
        request = familiar.with_parameters.alike()
        request.inputs = inputs
    else:
        request = InferenceRequest(
            familiar.model_name, inputs, model_version=familiar.model_version, id=familiar.id, outputs=familiar.outputs
        )
    request.template = familiar.template
    return request


def remember(data: bytes, request: InferenceRequest, places: Sequence[tuple[int, int, int]]) -> None:
    """Remembers `request`, just read from `data`. `places` says for each of its inputs, in order, where its raw
    contents' tag, first byte and end are; nothing is remembered unless they are the end of the message."""
    at = places[0][0] if places else 0
    if not 0 < at <= _PREFIX_BYTES_MAX or places[-1][2] != len(data) or len(places) > _INPUTS_MAX:
        return
    parts = []
    for tensor, (head_at, start, stop) in zip(request.inputs.values(), places, strict=True):
        if head_at != at:
            return
        parts.append((tensor, head_at, data[head_at:start], start, stop))
        at = stop
    familiar = Familiar(request, data[: places[0][0]], parts)
    if familiar.with_parameters is None:
        _keep(_familiar, len(data), familiar)
    elif places[0][0] >= _KEY_BYTES:  # else tensors would be part of the key
        _keep(_with_parameters, (len(data), data[:_KEY_BYTES]), familiar)


def _keep(memo: dict[Any, Familiar], key: object, familiar: Familiar) -> None:
    if len(memo) >= _FAMILIAR_MAX and key not in memo:
        del memo[next(iter(memo))]
    memo[key] = familiar
