"""Parameters that models give to responses and requests."""

from __future__ import annotations

from typing import Any

from ...schema.text import is_encodable
from .arguments import INT64
from .error import TritonModelException


def checked_parameters(parameters: object) -> dict[str, Any]:
    """A dict of str to bool, int or str that every client can read. Raises TritonModelException for all else."""
    if not isinstance(parameters, dict):
        raise TritonModelException(f"Expect parameters to have type dict, found type {type(parameters)}")
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException(f"Expect parameters keys to have type str, found type {type(key)}")
        if not isinstance(value, (bool, int, str)):
            raise TritonModelException(f"Expect parameters values to have type bool/int/str, found type {type(value)}")
        if not is_encodable(key):
            raise TritonModelException(f"Expect parameters keys to be text, found {key!a}, which UTF-8 does not have")
        if isinstance(value, str) and not is_encodable(value):
            raise TritonModelException(
                f"Expect parameters values to be text, found {value!a} for '{key}', which UTF-8 does not have"
            )
        if isinstance(value, int) and not INT64[0] <= value <= INT64[1]:
            raise TritonModelException(
                f"Expect parameters values to fit 64 bits with a sign, found one of {value.bit_length()} bits for "
                f"'{key}'"
            )
    return parameters
