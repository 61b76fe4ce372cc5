"""Opens one model version: asks its backend, settles its configuration, makes its actor. Changes nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..execute.warmup import Warmup
from ..model.version import ModelVersion
from ..port.backend import ModelContext
from ..port.foreign import as_fault
from . import configuration
from .devices import find_gpus
from .model_directory import labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..execute.inline import InlineRunner
    from ..port.backend import BackendModel
    from ..port.settings import EngineSettings
    from .discovery import Backends
    from .reading import Reading


class Loader:
    """Opens versions in worker threads, as many at a time as the settings allow."""

    def __init__(
        self, settings: EngineSettings, backends: Backends, clock: Callable[[], float], inline: InlineRunner
    ) -> None:
        self._settings = settings
        self._backends = backends
        self._clock = clock
        self._inline = inline
        self._limiter = trio.CapacityLimiter(settings.model_load_thread_count)
        self._gpus = find_gpus()

    async def open(self, name: str, reading: Reading, version: int, path: Path) -> ModelVersion:
        """The version, ready to run but not running. Raises Fault, and whatever the backend raises.

        Opening cannot be interrupted; cancellation takes effect after it, and closes what was opened.
        """
        began = trio.current_time()
        model = await trio.to_thread.run_sync(self._open, name, reading, version, path, limiter=self._limiter)
        model.load_seconds = trio.current_time() - began
        return model

    def _open(self, name: str, reading: Reading, version: int, path: Path) -> ModelVersion:
        settings = self._settings
        config = reading.config
        configuration.refuse_unbuilt(config)
        backend = self._backends.get(config.backend)
        context = ModelContext(
            name=name,
            version=version,
            model_path=reading.source.path,
            version_path=path,
            config=config,
            auto_complete=not settings.disable_auto_complete_config,
            backend_config=configuration.backend_settings(config.backend, settings),
        )
        try:
            opened: BackendModel = backend.open_model(context)
        except SystemExit as error:  # a user model's; on the trio thread it would end the engine
            raise as_fault(error) from error
        try:
            config = configuration.complete(config, opened.config, backend, self._gpus, settings)
            opened.config = config  # what instances see, and user models are told, is the settled one
            files = {output.name: output.label_filename for output in config.output if output.label_filename}
            return ModelVersion(
                name=name,
                version=version,
                config=config,
                backend_model=opened,
                instances=configuration.instances(config),
                labels=labels(name, reading.source.path, files),
                settings=settings,
                clock=self._clock,
                warmup=Warmup(config, reading.source.path),
                inline=self._inline,
            )
        except BaseException:
            opened.close()
            raise
