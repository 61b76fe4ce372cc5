"""What the GPUs are doing that this process may use, through NVML.

Nothing on machines without it: no driver, or no `nvidia-ml-py`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import attrs

from ...engine.port.visible_gpus import VARIABLE, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("despina.metrics")


@attrs.frozen(kw_only=True)
class GpuReading:
    """One GPU. What it does not tell is None. Bytes, watts, joules; utilization from 0 to 1."""

    uuid: str
    utilization: float | None
    memory_total: int | None
    memory_used: int | None
    power_usage: float | None
    power_limit: float | None
    energy_joules: float | None
    """Spent since the server started."""


class Gpus:
    """Looked at once per interval at most, on scrapes. `nvml` is the module `pynvml`, already initialised."""

    def __init__(self, nvml: Any, interval_s: float, clock: Callable[[], float]) -> None:
        self._nvml = nvml
        self._interval_s = interval_s
        self._clock = clock
        count = self._ask(nvml.nvmlDeviceGetCount) or 0
        found = [self._ask(nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        uuids = ["" if handle is None else self._uuid(handle) for handle in found]
        visible = enumerate(visible_gpus(uuids, os.environ.get(VARIABLE)))
        self._handles = {number: found[index] for number, index in visible if found[index] is not None}
        self.uuids = {number: self._uuid(handle) for number, handle in self._handles.items()}
        """By device number, as this process counts."""
        self._energy_at_start = {index: self._energy(handle) for index, handle in self._handles.items()}
        self._looked_at = clock()
        self._readings: list[GpuReading] | None = None

    def read(self) -> list[GpuReading]:
        """The latest readings, at most one interval old, by device number."""
        now = self._clock()
        if self._readings is None or now - self._looked_at >= self._interval_s:
            self._looked_at = now
            self._readings = [self._look(index, handle) for index, handle in self._handles.items()]
        return self._readings

    def _look(self, index: int, handle: Any) -> GpuReading:
        nvml = self._nvml
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        usage_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        limit_mw = self._ask(nvml.nvmlDeviceGetPowerManagementLimit, handle)
        energy, before = self._energy(handle), self._energy_at_start[index]
        return GpuReading(
            uuid=self.uuids[index],
            utilization=None if rates is None else rates.gpu / 100,
            memory_total=None if memory is None else int(memory.total),
            memory_used=None if memory is None else int(memory.used),
            power_usage=None if usage_mw is None else usage_mw / 1000,
            power_limit=None if limit_mw is None else limit_mw / 1000,
            energy_joules=None if energy is None or before is None else energy - before,
        )

    def _uuid(self, handle: Any) -> str:
        uuid = self._ask(self._nvml.nvmlDeviceGetUUID, handle)
        return uuid.decode() if isinstance(uuid, bytes) else uuid or ""

    def _energy(self, handle: Any) -> float | None:
        """Joules since the driver was loaded."""
        millijoules = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return None if millijoules is None else millijoules / 1000

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """None for what this GPU or driver does not tell."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def open_gpus(interval_s: float, clock: Callable[[], float]) -> Gpus | None:
    """The GPUs of this machine; None where NVML is not to be had, which is said in the log at debug level only."""
    try:
        import pynvml
    except ImportError as problem:
        log.debug("no GPU metrics: %s", problem)
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        log.debug("no GPU metrics: %s", problem)
        return None
    return Gpus(pynvml, interval_s, clock)
