"""Requests that models make."""

from __future__ import annotations

from typing import ClassVar

from ...schema.inference import InferenceRequest


class NestedRequest(InferenceRequest):
    """One that a model makes."""

    __slots__ = ("depth",)

    pinned: ClassVar[bool] = True
    depth: int  # type: ignore[misc]  # the engine finds out; of others it is a constant
