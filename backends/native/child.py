"""A library in a process of its own: what is done there. The process itself: ../python/isolated/child.py."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...engine.port.backend import InstanceContext, ModelContext
from ...engine.port.host_policy import HostPolicy
from ...native.loading import extension, use_folder
from ...native.messages import follow_logger
from ...schema.config_json import config_to_json
from ...schema.model_config import config_from_json
from .afar import serve_from_afar
from .configuration import answer_library
from .model import NativeModel

TELL_S: Final = 1.0

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.port.work import Batch
    from ..python.isolated.asking import ChildEngine
    from ..python.isolated.setup import Setup
    from .instance import NativeInstance


def complete(setup: Setup) -> tuple[str, int]:
    """What the library makes of the configuration, as JSON, and the kind of instances that it prefers."""
    model = _open_model(setup, None)
    try:
        return config_to_json(model.config).decode(), model.preferred_kind
    finally:
        model.close()


def open_instance(setup: Setup, engine: ChildEngine | None) -> ChildInstance:
    """`engine` is what the library may ask."""
    model = _open_model(setup, engine)
    try:
        told = _library(setup)
        context = InstanceContext(
            name=setup.instance_name,
            kind=told["instance_kind"],
            device_id=told["device_id"],
            host_policy=HostPolicy(**told["host_policy"]),
        )
        return ChildInstance(model, model.open_instance(context), None if engine is None else Told(engine))
    except BaseException:
        model.close()
        raise


class ChildInstance:
    """The one instance of this process, and its model, which no other instance shares."""

    movable = False

    def __init__(self, model: NativeModel, instance: NativeInstance, metrics: Told | None) -> None:
        self._model = model
        self._instance = instance
        self._metrics = metrics
        self.ready: Callable[[], bool] | None = getattr(instance, "ready", None)

    def execute(self, batch: Batch) -> None:
        try:
            self._instance.execute(batch)
        finally:
            if self._metrics is not None:
                self._metrics.look()

    def close(self) -> None:
        self._instance.close()
        self._model.close()


class Told:
    """The metrics of the library, as the server was told them last: at once, and then TELL_S after batches as long as
    they change."""

    def __init__(self, engine: ChildEngine) -> None:
        self._engine = engine
        self._page = ""
        self._timer: threading.Timer | None = None
        self._tell()

    def look(self) -> None:
        """They may have changed."""
        if self._timer is None:
            self._timer = timer = threading.Timer(TELL_S, self._look_again)
            timer.daemon = True
            timer.start()

    def _look_again(self) -> None:
        self._timer = None
        with suppress(OSError):  # the server is gone
            if self._tell():
                self.look()

    def _tell(self) -> bool:
        page = extension().metrics_page()
        if page == self._page:
            return False
        self._page = page
        self._engine.show_page(page)
        return True


def _library(setup: Setup) -> dict[str, Any]:
    assert setup.library is not None, "it is a library's process"
    return setup.library


def _open_model(setup: Setup, engine: ChildEngine | None) -> NativeModel:
    told = _library(setup)
    use_folder(Path(told["built"]))
    native = extension()
    answer_library(native)
    follow_logger(native)
    if engine is not None:
        serve_from_afar(native, engine, setup)
    context = ModelContext(
        name=setup.name,
        version=setup.version,
        model_path=Path(told["model_path"]),
        version_path=Path(told["version_path"]),
        config=config_from_json(setup.config),
        auto_complete=told["auto_complete"],
        backend_config=told["backend_config"],
        nested=engine,
    )
    return NativeModel(native, told["backend"], Path(told["path"]), context)
