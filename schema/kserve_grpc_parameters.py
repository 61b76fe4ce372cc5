"""Parameters of requests and responses in the gRPC door's words: what a request's own ones say to the server, and which
are the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .fault import InvalidArgument
from .wire.generated.inference import InferParameter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .inference import InferenceRequest, Parameter

NONE, BOOL, INT64, STRING, DOUBLE, UINT64 = range(6)
"""What a parameter's value was sent as."""

Said = tuple[int, "Parameter"]

_RESERVED: Final = (
    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
    "'triton_' are allowed: triton_enable_empty_final_response"
)


def said_in(value: InferParameter) -> Said:
    """What a message's parameter says."""
    if value.int64_param is not None:
        return INT64, value.int64_param
    if value.bool_param is not None:
        return BOOL, value.bool_param
    if value.string_param is not None:
        return STRING, value.string_param
    if value.double_param is not None:
        return DOUBLE, value.double_param
    if value.uint64_param is not None:
        return UINT64, value.uint64_param
    return NONE, 0


def wrong_type(what: str, expected: str) -> InvalidArgument:
    """The refusal of a parameter that was sent as something else."""
    return InvalidArgument(f"invalid value type for {what}, expected {expected}")


def apply_parameters(parameters: Iterable[tuple[str, Said]], request: InferenceRequest) -> None:
    """Puts what they say into `request`. Raises InvalidArgument for the first that is wrong."""
    custom: dict[str, Parameter] = {}
    for key, (sent_as, value) in parameters:
        read = _OWN.get(key)
        if read is not None:
            read(request, key, sent_as, value)
        elif key.startswith("triton_"):
            raise InvalidArgument(_RESERVED)
        elif sent_as in (NONE, UINT64):
            raise _refused(key, "int64_param, bool_param, or string_param.")
        else:
            custom[key] = value
    if custom:
        request.parameters = custom


def _refused(key: str, expected: str) -> InvalidArgument:
    return wrong_type(f"'{key}' parameter", expected)


def _sequence_id(request: InferenceRequest, key: str, sent_as: int, value: Parameter) -> None:
    if sent_as == INT64:
        request.correlation_id = int(value) & 0xFFFFFFFFFFFFFFFF
    elif sent_as == STRING:
        request.correlation_id = str(value)
    else:
        raise _refused(key, "int64_param or string_param.")


def _sequence_start(request: InferenceRequest, key: str, sent_as: int, value: Parameter) -> None:
    request.sequence_start = _switch(key, sent_as, value)


def _sequence_end(request: InferenceRequest, key: str, sent_as: int, value: Parameter) -> None:
    request.sequence_end = _switch(key, sent_as, value)


def _empty_final_response(request: InferenceRequest, key: str, sent_as: int, value: Parameter) -> None:
    _switch(key, sent_as, value)  # the door's affair, see stream_infer.py


def _switch(key: str, sent_as: int, value: Parameter) -> bool:
    if sent_as != BOOL:
        raise _refused(key, "bool_param.")
    return bool(value)


def _priority(request: InferenceRequest, key: str, sent_as: int, value: Parameter) -> None:
    if sent_as not in (INT64, UINT64):
        raise _refused(key, "int64_param or uint64_param.")
    priority = int(value)
    if priority < 0:
        raise InvalidArgument("invalid value for 'priority', expected value >= 0.")
    request.priority = priority


def _timeout(request: InferenceRequest, key: str, sent_as: int, value: Parameter) -> None:
    if sent_as != INT64:
        raise _refused(key, "int64_param.")
    request.timeout_us = int(value) & 0xFFFFFFFFFFFFFFFF


_OWN: Final = {
    "sequence_id": _sequence_id,
    "sequence_start": _sequence_start,
    "sequence_end": _sequence_end,
    "priority": _priority,
    "timeout": _timeout,
    "triton_enable_empty_final_response": _empty_final_response,
}
"""Those that are the protocol's."""


def write_parameters(parameters: Mapping[str, Parameter]) -> dict[str, InferParameter]:
    return {key: _write_parameter(value) for key, value in parameters.items()}


def _write_parameter(value: Parameter) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return InferParameter(int64_param=value) if value < 2**63 else InferParameter(uint64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    return InferParameter(string_param=value)
