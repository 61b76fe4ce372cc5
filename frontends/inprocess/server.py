"""The server: an engine on a thread of its own, from `start` to `stop`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import orjson

from ...engine.blocking import open_engine
from ...schema.fault import ShuttingDown
from ..answers import server_metadata
from ..metrics.collector import EngineCollector
from ..metrics.exposition import text_of
from .errors import InvalidArgumentError, UnavailableError, told
from .model import Model
from .options import Options

if TYPE_CHECKING:
    from ...engine.blocking import BlockingEngine


class Server:
    """Made, started and stopped by one thread; in between for any."""

    def __init__(self, options: Options | None = None, **fields: Any) -> None:
        self.options = options or Options(**fields)
        self._stack = ExitStack()
        self._engine: BlockingEngine | None = None

    # --- Life

    def start(
        self, wait_until_ready: bool = False, polling_interval: float = 0.1, timeout: float | None = None
    ) -> Server:
        """Loads the start-up models, and returns when they are. Raises what keeps the engine from starting."""
        if self._engine is not None:
            raise InvalidArgumentError("Server already started")
        options = self.options.engine_options()
        paths = options.pop("model_repository")
        with told():
            self._engine = self._stack.enter_context(open_engine(paths, **options))
        deadline = None if timeout is None else time.monotonic() + timeout
        while wait_until_ready and not self.ready():
            if deadline is not None and time.monotonic() > deadline:
                raise UnavailableError("Timeout before ready")
            time.sleep(polling_interval)
        return self

    def stop(self) -> None:
        """Finishes what is in flight."""
        with told():
            self._stack.close()
        self._engine = None

    @property
    def engine(self) -> BlockingEngine:
        """What it stands on. Raises InvalidArgumentError while there is none."""
        if self._engine is None:
            raise InvalidArgumentError("Server not started")
        return self._engine

    # --- Health and descriptions

    def live(self) -> bool:
        try:
            return self.engine.is_live()
        except ShuttingDown:
            return False

    def ready(self) -> bool:
        try:
            return self.engine.is_ready()
        except ShuttingDown:
            return False

    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(server_metadata(self.engine.metadata()))
        return found

    def metrics(self) -> str:
        """The page for Prometheus, without the machine's figures."""
        versions, custom, cache = self.engine.measured()
        return text_of(EngineCollector(versions, custom=custom, cache=cache).collect()).decode()

    # --- Models

    def model(self, model_name: str, model_version: int = -1) -> Model:
        """By name, whether it is there or not."""
        return Model(self, model_name, model_version)

    def models(self, exclude_not_ready: bool = False) -> dict[str | tuple[str, int], Model]:
        """By name and version; by name alone those that were never loaded."""
        found: dict[str | tuple[str, int], Model] = {}
        with told():
            entries = self.engine.index(exclude_not_ready)
        for entry in entries:
            key = (entry.name, int(entry.version)) if entry.version else entry.name
            version = int(entry.version) if entry.version else -1
            found[key] = Model(self, entry.name, version, entry.state or None, entry.reason)
        return found

    def load(self, model_name: str, parameters: dict[str, str | bytes] | None = None) -> Model:
        """`parameters` may have `config`, a whole configuration in JSON, and `file:<path>` contents."""
        given = dict(parameters or {})
        config = given.pop("config", None)
        files = {}
        for name, content in given.items():
            if not name.startswith("file:"):
                raise InvalidArgumentError(f"unrecognized load parameter '{name}'")
            files[name.removeprefix("file:")] = content if isinstance(content, bytes) else content.encode()
        text = config.decode() if isinstance(config, bytes) else config
        with told():
            self.engine.load(model_name, config=text, files=files or None)
        return Model(self, model_name)

    def unload(
        self,
        model: str | Model,
        unload_dependents: bool = False,
        wait_until_unloaded: bool = False,
        polling_interval: float = 0.1,
        timeout: float | None = None,
    ) -> None:
        name = model if isinstance(model, str) else model.name
        with told():
            self.engine.unload(name, unload_dependents=unload_dependents)
        deadline = None if timeout is None else time.monotonic() + timeout
        while wait_until_unloaded and Model(self, name).ready():
            if deadline is not None and time.monotonic() > deadline:
                raise UnavailableError("Timeout before unloaded")
            time.sleep(polling_interval)

    def register_model_repository(self, path: str, name_mapping: dict[str, str] | None = None) -> None:
        with told():
            self.engine.register_model_repository(path, name_mapping)

    def unregister_model_repository(self, path: str) -> None:
        with told():
            self.engine.unregister_model_repository(path)

    def poll_model_repository(self) -> None:
        with told():
            self.engine.poll()
