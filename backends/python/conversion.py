"""The helper functions of `pb_utils` over configurations, datatypes and BYTES."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema.datatype import BY_CONFIG_NAME, BY_NUMBER
from ...schema.tensor import decode_bytes, encode_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .request import InferenceRequest
    from .response import InferenceResponse
    from .tensor import Tensor

TRITON_STRING_TO_NUMPY: dict[str, type[np.generic] | type[bool]] = {
    name: bool if name == "TYPE_BOOL" else row.dtype.type for name, row in BY_CONFIG_NAME.items() if name != "TYPE_BF16"
}

_NUMPY_TO_NUMBER: dict[type[Any], int] = {
    row.dtype.type: row.number for row in BY_NUMBER.values() if row.name not in ("BF16", "BYTES")
}
_NUMPY_TO_NUMBER[np.bytes_] = _NUMPY_TO_NUMBER[np.object_] = 13


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    return inference_request.tensor(name)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    return next((tensor for tensor in inference_response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The input's properties in a parsed configuration, or None."""
    return _by_name(model_config, "input", name)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return _by_name(model_config, "output", name)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_to_numpy_type(data_type: int) -> type[Any] | None:
    """The numpy scalar type for a datatype's number; None for numbers without one (BF16 too)."""
    row = BY_NUMBER.get(data_type)
    return None if row is None or row.name == "BF16" else row.dtype.type


def numpy_to_triton_type(data_type: Any) -> int | None:
    """The datatype's number for a numpy type or dtype; None for others."""
    return _NUMPY_TO_NUMBER.get(data_type.type if isinstance(data_type, np.dtype) else data_type)


def triton_string_to_numpy(triton_type_string: str) -> type[Any]:
    """The numpy type for `TYPE_FP32` and its like. Raises KeyError for others."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def serialize_byte_tensor(input_tensor: np.ndarray) -> bytes | tuple[()] | None:
    """Each element in row-major order after its length in 4 bytes; `()` for no elements, None for other dtypes."""
    if input_tensor.size == 0:
        return ()
    if input_tensor.dtype != np.object_ and input_tensor.dtype.type is not np.bytes_:
        return None
    return encode_bytes(input_tensor.ravel())


def deserialize_bytes_tensor(encoded_tensor: bytes) -> np.ndarray:
    """A one-dimensional object array of the elements; reshaping is the caller's."""
    items = decode_bytes(encoded_tensor, "")
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


def _by_name(model_config: Mapping[str, Any], role: str, name: str) -> dict[str, Any] | None:
    for properties in model_config.get(role, ()):
        if properties["name"] == name:
            return dict(properties)
    return None
