"""What a step's answer says of the sequence that it belongs to, for the steps that read its tensors. Pure.

A model may put `sequence_id`, `sequence_start` and `sequence_end` into the parameters of its response: to steps after
it they take the place of the request's own, and the ensemble's response carries them on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ....schema.fault import InvalidArgument
from ....schema.inference import FixedParameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ....schema.inference import InferenceRequest, Parameter

_NAMES = frozenset({"sequence_id", "sequence_start", "sequence_end"})
_OF_NONE = FixedParameters({"sequence_id": 0, "sequence_start": False, "sequence_end": False})


@attrs.frozen
class SequenceFacts:
    """A sequence's id, and whether it begins or ends here."""

    id: int | str
    start: bool
    end: bool

    def parameters(self) -> dict[str, Parameter]:
        """As a response carries them."""
        return {"sequence_id": self.id, "sequence_start": self.start, "sequence_end": self.end}


def parameters_of(request: InferenceRequest) -> dict[str, Parameter]:
    """What an answer says of the request's own sequence. Not to be changed."""
    id, start, end = request.correlation_id, request.sequence_start, request.sequence_end
    return SequenceFacts(id, start, end).parameters() if start or end or id != 0 else _OF_NONE


def facts_in(parameters: Mapping[str, Parameter] | None, request: InferenceRequest) -> SequenceFacts | None:
    """What the answer to a step's request says; None if it says nothing. Raises InvalidArgument for other types."""
    if not parameters or not _NAMES & parameters.keys():
        return None
    id = parameters.get("sequence_id", request.correlation_id)
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise InvalidArgument(
            "expected parameter 'sequence_id' to be TRITONSERVER_PARAMETER_INT or TRITONSERVER_PARAMETER_STRING"
        )
    return SequenceFacts(
        id,
        _flag("sequence_start", parameters, request.sequence_start),
        _flag("sequence_end", parameters, request.sequence_end),
    )


def _flag(name: str, parameters: Mapping[str, Parameter], default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidArgument(f"expected parameter '{name}' to be TRITONSERVER_PARAMETER_BOOL")
    return value
