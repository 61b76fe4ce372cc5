"""Requests that ensembles make."""

from __future__ import annotations

from typing import ClassVar

from ....schema.inference import InferenceRequest


class StepRequest(InferenceRequest):
    """To a model that the ensemble has pinned."""

    __slots__ = ("depth", "goes_on")

    depth: int  # type: ignore[misc]  # of the request that it is a step of
    goes_on: bool  # type: ignore[misc]  # steps follow that may be asked in the trio thread's place

    pinned: ClassVar[bool] = True
