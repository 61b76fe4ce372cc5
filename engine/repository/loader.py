"""Opens one model version: asks its backend, settles its configuration, makes its actor. Changes nothing else."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from ...schema.fault import Unavailable
from ..execute.limited import SharedResources
from ..execute.warmup import Warmup
from ..model.cache.version import CachedEnsemble, CachedVersion
from ..model.ensemble.version import EnsembleVersion
from ..model.version import ModelVersion
from ..port.backend import ModelContext
from ..port.foreign import as_fault
from ..schedule.states import States
from . import configuration
from .devices import find_gpus
from .fingerprint import fingerprint
from .model_directory import labels
from .worker import in_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig
    from ..execute.inline import InlineRunner
    from ..model.cache.keeper import Keeper
    from ..model.hosted import HostedVersion
    from ..port.backend import BackendModel, InstanceContext
    from ..port.nested import NestedCaller
    from ..port.served import Served
    from ..port.settings import EngineSettings
    from .discovery import Backends
    from .reading import Reading


@attrs.frozen(eq=False)
class _Opened:
    version: HostedVersion
    backend_model: BackendModel | None
    """None of an ensemble."""

    def close(self) -> None:
        """Instead of running the version."""
        if self.backend_model is not None:
            self.backend_model.close()


class Loader:
    """Opens versions in worker threads, as many at a time as the settings allow."""

    def __init__(
        self,
        settings: EngineSettings,
        backends: Backends,
        clock: Callable[[], float],
        inline: InlineRunner,
        find: Callable[[str, str, int], Served],
        nested: NestedCaller,
        keeper: Keeper | None = None,
    ) -> None:
        """`find` looks up what serves, near a namespace: ensembles ask it for their models. `keeper` is the engine's
        cache, None for none."""
        self._find = find
        self._keeper = keeper
        self._settings = settings
        self._backends = backends
        self._clock = clock
        self._inline = inline
        self._nested = nested
        self._slots = trio.CapacityLimiter(settings.model_load_thread_count)
        self._threads = trio.CapacityLimiter(2 * settings.model_load_thread_count)
        """Also those that were given up and hang, which hold no slot any more."""
        self._gpus = find_gpus()
        self.resources = SharedResources(settings.rate_limit_resource) if settings.rate_limit != "off" else None
        """What instances share where rates are limited."""

    async def open(self, name: str, reading: Reading, version: int, path: Path) -> HostedVersion:
        """The version, ready to run but not running. Raises Fault, and whatever the backend raises.

        What opens cannot be interrupted, but it is given up: after `model_load_timeout_secs`, or cancelled and not back
        within `exit_timeout_secs`. It is closed when it comes back.
        """
        began = trio.current_time()
        async with self._slots:
            if self._threads.available_tokens < 1:
                raise Unavailable(
                    f"{self._threads.borrowed_tokens} models that were given up are still being opened: nothing more "
                    "can be loaded until some of them come back"
                )
            opened = await in_worker(
                f"opening model '{name}' version {version}",
                partial(self._open, reading, version, path),
                _Opened.close,
                limiter=self._threads,
                timeout_s=self._settings.model_load_timeout_secs or float("inf"),
                patience_s=self._settings.exit_timeout_secs,
            )
        opened.version.namespace = reading.source.namespace
        opened.version.load_seconds = trio.current_time() - began
        return opened.version

    def complete(self, config: ModelConfig, completed: ModelConfig) -> ModelConfig:
        """The configuration to serve: `config` as the repository has it, with what its backend has completed.

        Raises InvalidArgument, Internal, Unsupported.
        """
        backend = self._backends.get(config.backend)
        return configuration.complete(config, completed, backend, self._gpus, self._settings)

    def instances(self, config: ModelConfig) -> list[InstanceContext]:
        """Those that a settled configuration asks for."""
        return configuration.instances(config, self._settings)

    def _open(self, reading: Reading, version: int, path: Path) -> _Opened:
        settings = self._settings
        config = reading.config
        name = config.name
        configuration.check_before_opening(config, path, reading.source.path)
        if config.ensemble_scheduling is not None:
            return _Opened(self._ensemble(name, reading, version, path), None)
        backend = self._backends.get(config.backend)
        context = ModelContext(
            name=name,
            version=version,
            model_path=reading.source.path,
            version_path=path,
            config=config,
            auto_complete=not settings.disable_auto_complete_config,
            backend_config=configuration.backend_settings(config.backend, settings),
            nested=self._nested,
        )
        try:
            backend_model: BackendModel = backend.open_model(context)
        except SystemExit as error:  # a user model's; on the trio thread it would end the engine
            raise as_fault(error) from error
        try:
            config = self.complete(config, backend_model.config)
            backend_model.config = config  # what instances see, and user models are told, is the settled one
            states = States(config, reading.source.path)
            keeper = self._keeper
            make: Callable[..., ModelVersion] = ModelVersion
            if keeper is not None and _is_kept(config):
                make = partial(CachedVersion, keeper=keeper)
            opened = make(
                name=name,
                version=version,
                config=config,
                backend_model=backend_model,
                instances=self.instances(config),
                labels=labels(name, reading.source.path, _label_files(config)),
                settings=settings,
                clock=self._clock,
                warmup=Warmup(config, reading.source.path, states),
                states=states,
                inline=self._inline,
                resources=self.resources,
                generation=self._generation(reading, path, config),
            )
            return _Opened(opened, backend_model)
        except BaseException:
            backend_model.close()
            raise

    def _ensemble(self, name: str, reading: Reading, version: int, path: Path) -> EnsembleVersion:
        config = configuration.complete_ensemble(reading.config)
        keeper = self._keeper
        make: Callable[..., EnsembleVersion] = EnsembleVersion
        if keeper is not None and _is_kept(config):
            make = partial(CachedEnsemble, keeper=keeper)
        return make(
            name=name,
            version=version,
            config=config,
            labels=labels(name, reading.source.path, _label_files(config)),
            settings=self._settings,
            clock=self._clock,
            find=partial(self._find, reading.source.namespace),
            generation=self._generation(reading, path, config),
        )

    def _generation(self, reading: Reading, path: Path, config: ModelConfig) -> str:
        if self._keeper is None:
            return ""
        return self._keeper.generation(partial(fingerprint, reading.source.path, path, config))


def _is_kept(config: ModelConfig) -> bool:
    return config.response_cache is not None and config.response_cache.enable


def _label_files(config: ModelConfig) -> dict[str, str]:
    return {output.name: output.label_filename for output in config.output if output.label_filename}
