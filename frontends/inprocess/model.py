"""One model of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ...schema.config_json import config_to_json
from ..answers import model_metadata, statistics
from .errors import told
from .request import InferenceRequest
from .responses import AsyncResponseIterator, ResponseIterator

if TYPE_CHECKING:
    from .server import Server

_ONE_TO_ONE, _DECOUPLED = 1, 2
_UNKNOWN, _FIRST_DIM = 1, 2


class Model:
    """A name and a version, -1 for the latest, whether they are there or not."""

    def __init__(
        self, server: Server, name: str, version: int = -1, state: str | None = None, reason: str = ""
    ) -> None:
        self._server = server
        self.name = name
        self.version = version
        self.state = state
        """As the index told when it was asked, or None."""
        self.reason = reason

    def create_request(self, **fields: Any) -> InferenceRequest:
        return InferenceRequest(model=self, **fields)

    def infer(
        self, request: InferenceRequest | None = None, raise_on_error: bool = True, **fields: Any
    ) -> ResponseIterator:
        """Asks the model, by a request or by its fields."""
        return ResponseIterator(self._server.engine, request or self.create_request(**fields), raise_on_error)

    def async_infer(
        self, request: InferenceRequest | None = None, raise_on_error: bool = True, **fields: Any
    ) -> AsyncResponseIterator:
        return AsyncResponseIterator(self.infer(request, raise_on_error, **fields))

    def metadata(self) -> dict[str, Any]:
        with told():
            return _json(model_metadata(self._server.engine.model_metadata(self.name, self.version)))

    def ready(self) -> bool:
        """False also for a model that is not there."""
        return any(
            entry.name == self.name and self.version in (-1, int(entry.version or 0))
            for entry in self._server.engine.index(ready_only=True)
        )

    def config(self, config_version: int = 1) -> dict[str, Any]:
        with told():
            return _json(config_to_json(self._server.engine.model(self.name, self.version).config))

    def statistics(self) -> dict[str, Any]:
        with told():
            return _json(statistics(self._server.engine.statistics(self.name, self.version)))

    def batch_properties(self) -> int:
        with told():
            batches = self._server.engine.model(self.name, self.version).config.max_batch_size > 0
        return _FIRST_DIM if batches else _UNKNOWN

    def transaction_properties(self) -> int:
        return _DECOUPLED if self.decoupled() else _ONE_TO_ONE

    def decoupled(self) -> bool:
        with told():
            return self._server.engine.model(self.name, self.version).decoupled


def _json(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(text)
    return found
