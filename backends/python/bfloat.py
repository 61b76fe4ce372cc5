"""BF16 tensors through DLPack, of which numpy knows nothing: what goes and comes is numpy's capsule of 16-bit integers,
told to be of the other kind."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

_UNSIGNED: Final = 1
_BFLOAT: Final = 4
"""DLPack's numbers of kinds."""


class _Managed(ctypes.Structure):
    """The beginning of a DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


def capsule_of(bits: np.ndarray) -> Any:
    """A capsule of BF16 numbers over an array of their bits, np.uint16, that may be written to."""
    capsule: Any = bits.__dlpack__()
    _inside(capsule).kind = _BFLOAT
    return capsule


def told_to_be_integers(capsule: object) -> bool:
    """Whether a capsule was of BF16 numbers; then it is one of their bits from now on. Raises ValueError for a capsule
    that somebody has used."""
    inside = _inside(capsule)
    if (inside.kind, inside.bits, inside.lanes) != (_BFLOAT, 16, 1):
        return False
    inside.kind = _UNSIGNED
    return True


def _inside(capsule: object) -> _Managed:
    address = _address_of(capsule, b"dltensor")
    return ctypes.cast(address, ctypes.POINTER(_Managed)).contents


_address_of = ctypes.pythonapi.PyCapsule_GetPointer
_address_of.restype = ctypes.c_void_p
_address_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
