"""What is known of requests that repeat one before on the same connection, whatever door they come through.

The doors compare the bytes (http/usual.py, grpc/usual.py). Here is the rest that both need: whether anything has
changed since the first of them was let in, and the next request made of that one and new tensors.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from ..schema.fault import Fault
from ..schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.engine import Engine
    from ..engine.model.version import ModelVersion
    from ..schema.inference import InferenceRequest

_OWN_REFERENCES: Final = 2
"""To an object that only its owner's attribute holds, as `sys.getrefcount` counts."""


class Usual:
    """One connection's, for one form of request."""

    __slots__ = ("_changes", "_engine", "_parts", "_registry", "_request", "_tracer", "model")

    def __init__(
        self,
        engine: Engine,
        model: ModelVersion,
        request: InferenceRequest,
        parts: Sequence[tuple[str, str, Sequence[int], slice]],
    ) -> None:
        """`request` is the first of them; `parts` says for each input its name, datatype, shape, and where its bytes
        are in what is received."""
        self._engine = engine
        self._tracer = engine.tracer
        self._registry = engine.registry
        self._changes = engine.registry.changes
        self._parts = parts
        self._request = request.alike()
        self.model = model

    def is_open(self) -> bool:
        """Whether the short way may be taken now: nothing is traced, and the model's name means what it meant."""
        if self._tracer.active:
            return False
        return self._registry.changes == self._changes or self._is_current()

    def request_in(self, data: bytes) -> InferenceRequest:
        """The request in `data`, which has been compared."""
        inputs = {}
        for name, datatype, shape, place in self._parts:
            inputs[name] = Tensor(name, datatype, shape, data[place])
        if sys.getrefcount(self._request) != _OWN_REFERENCES:
            self._request = self._request.alike()  # one is in flight, or somebody still looks at the last one
        request = self._request
        request.inputs = inputs
        return request

    def rest(self) -> None:
        """From time to time: lets go of the last request's tensors."""
        if self._request.inputs:
            self._request = self._request.alike()

    def on_replaced(self) -> None:
        """Another version serves under the name: no fault of the client's, who may be taken as usual once more."""

    def _is_current(self) -> bool:
        """Models were loaded or unloaded."""
        try:
            model = self._engine.model(self._request.model_name, self._request.model_version)
        except Fault:
            return False
        if model is not self.model:
            self.on_replaced()
            return False
        self._changes = self._registry.changes
        return True
