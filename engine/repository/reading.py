"""What one load finds in the store. Blocking file access.

fetch, or upload ──▶ configuration ──▶ agents ──▶ versions ──▶ chosen by the policy
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from ...schema.fault import InvalidArgument
from . import configuration
from .model_directory import chosen_versions, version_directories, versions_of
from .upload import upload

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig
    from ..port.settings import EngineSettings
    from ..port.store import ModelSource, ModelStore
    from .agents import Agents


@attrs.frozen(eq=False)
class Reading:
    """A model as one load has found it."""

    source: ModelSource
    times_ns: Mapping[str, int]
    """The store's record of before; empty for uploaded files, which no record of the store's stands for."""
    config: ModelConfig
    """As far as it follows from the directory: no backend has completed it yet."""
    versions: Mapping[int, Path]
    """Version number -> directory, of all that there are."""
    comes_back: bool
    """Whether reading it again would find the same: not with a configuration or files that somebody has brought."""

    def chosen(self) -> dict[int, Path]:
        """The versions to serve. Raises InvalidArgument when there are none."""
        return chosen_versions(self.config.name, self.versions, self.config.version_policy)


def read(
    store: ModelStore,
    agents: Agents,
    settings: EngineSettings,
    name: str,
    times_ns: Mapping[str, int],
    config: str | None,
    files: Mapping[str, bytes],
) -> Reading:
    """Fetches and reads a model. `config`, in JSON, takes the place of the model's own; `files`, that of its directory.

    Raises Fault, OSError.
    """
    if files and config is None:
        raise InvalidArgument("Load parameter 'config' must be specified for model file override")
    fetched = None if files else store.fetch(name, partial(needed, config, settings))
    namespace, name = store.split(name)
    source = fetched or attrs.evolve(upload(name, files), namespace=namespace)
    try:
        written = configuration.read(source.path, config, settings)
        source = agents.load(name, written, source)
        return Reading(
            source=source,
            times_ns=times_ns,
            config=configuration.settle(written, name, source, settings),
            versions=version_directories(source.path),
            comes_back=config is None and not files,
        )
    except BaseException:
        if source.discard is not None:
            source.discard()
        raise


def needed(override: str | None, settings: EngineSettings, path: Path, directories: Sequence[str]) -> Collection[str]:
    """Those directories of a model that a load reads: the versions that are served, and all that are no versions."""
    try:
        written = configuration.read(path, override, settings)
        if written.model_repository_agents is not None:
            return directories  # its agents may want to see any
        versions = {number: path / name for number, name in versions_of(directories)}
        chosen = chosen_versions(written.name, versions, written.version_policy)
    except InvalidArgument:
        return ()  # the load will say so
    needless = {version.name for number, version in versions.items() if number not in chosen}
    return [name for name in directories if name not in needless]


def discard_now(reading: Reading) -> None:
    """For a reading that nobody wants any more."""
    if reading.source.discard is not None:
        reading.source.discard()
