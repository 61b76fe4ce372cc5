"""What is known of requests that repeat one before on the same connection, whatever door they come through.

The doors compare the bytes (http/usual.py, grpc/usual.py). Here is the rest that both need: for how long what the first
of them said and was allowed holds, how often a connection may try, and the next request made of that one and new
tensors.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.port.caller import Caller
    from ..engine.port.served import Served
    from ..schema.inference import InferenceRequest

MADE_MAX: Final = 8
"""Of them, for one connection and generation. Clients that never repeat themselves, or ask for two models in turn, are
left alone after that."""
PREFIX_BYTES_MAX: Final = 4096
"""Of what is compared, for each connection. Clients choose it."""

_OWN_REFERENCES: Final = 2
"""To an object that only its owner's attribute holds, as `sys.getrefcount` counts."""


class Remembering(Protocol):
    """A connection, for its usual requests."""

    usual: Any
    """Takes requests like one before by itself; None where there is none."""
    usual_left: int
    """How many more may be made in this generation."""


class Usual:
    """One connection's, for one form of request. Lives no longer than the engine's generation, unless one of its
    requests is in flight."""

    __slots__ = ("__weakref__", "_connection", "_generation", "_number", "_parts", "_request", "model")

    _connection: Remembering

    def __init__(
        self,
        connection: Remembering,
        engine: Caller,
        model: Served,
        request: InferenceRequest,
        parts: Sequence[tuple[str, str, Sequence[int], slice]],
    ) -> None:
        """`request` is the first of them; `parts` says for each input its name, datatype, shape, and where its bytes
        are in what is received."""
        self._connection = connection
        self._parts = parts
        self._request = request.alike()
        self.model = model
        self._generation = engine.generation
        self._number = engine.generation.number

    def settle(self) -> None:
        """From here on the connection takes such requests by itself, for as long as the generation lasts."""
        self._connection.usual = self
        self._connection.usual_left -= 1
        self._generation.keep(self)

    def let_go(self) -> None:
        """The generation is over: the connection may begin anew."""
        self._connection.usual = None
        self._connection.usual_left = MADE_MAX

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
