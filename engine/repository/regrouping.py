"""Changes the instances of what serves, without a reload, where nothing else has changed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
import trio

from ...schema.fault import Fault, Internal, InvalidArgument
from ..model.version import ModelVersion
from ..port.concerns import of_model
from ..port.foreign import as_fault
from ..port.groups import first
from .changes import only_configuration_differs, only_instances_differ

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .loader import Loader
    from .reading import Reading
    from .registry import ModelEntry, Registry

log = logging.getLogger("despina.engine.repository.regrouping")


def is_regrouping(entry: ModelEntry, reading: Reading, chosen: Iterable[int]) -> bool:
    """Whether the same versions of the same files are to be served, and only their instance groups may differ."""
    loaded = entry.loaded
    return (
        loaded is not None
        and reading.config.ensemble_scheduling is None
        and reading.source.serving is None  # its agents are told of a load, and may have brought other files
        and [model.version for model in entry.ready()] == sorted(chosen)
        and only_configuration_differs(reading.times_ns, loaded.times_ns)
        and only_instances_differ(loaded.config, reading.config)
    )


async def regroup(entry: ModelEntry, reading: Reading, registry: Registry, loader: Loader, timeout_s: float) -> None:
    """Gives every serving version the instances that `reading` wants. Raises InvalidArgument, in the words of a failed
    load; then those versions that it names serve as before."""
    loaded = entry.loaded
    assert loaded is not None, "something serves"
    faults: dict[int, Fault] = {}

    async def change(model: ModelVersion) -> None:
        try:
            config = loader.complete(reading.config, model.config)
            with trio.move_on_after(timeout_s):
                await model.change_instances(loader.instances(config), config)
                return
            faults[model.version] = Internal(f"the instances have not opened within {timeout_s:g} s")
        except Exception as error:
            faults[model.version] = as_fault(first(error))

    async with trio.open_nursery() as nursery:
        for model in entry.ready():
            assert isinstance(model, ModelVersion), "what has instances"
            nursery.start_soon(change, model)
    registry.refresh(entry.name)  # configurations have changed
    for version in entry.versions.values():
        if version.model is not None:
            fault = faults.get(version.version)
            version.reason = "" if fault is None else fault.as_reason()
    if faults:
        log.error("failed to load '%s'", entry.name, extra=of_model(entry.name))
        details = "".join(
            f"version {number} is at READY state: {fault.as_reason()};" for number, fault in sorted(faults.items())
        )
        raise InvalidArgument(f"load failed for model '{entry.name}': {details}\n")
    if entry.loaded is loaded:  # not unloaded meanwhile by an engine that stops
        entry.hold(attrs.evolve(loaded, times_ns=reading.times_ns, config=reading.config), entry.waiting)
    entry.failed_ns = None
    log.info("successfully loaded '%s'", entry.name, extra=of_model(entry.name))
