"""One executor's view of a module: a batch's arrays in, one call, arrays out."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault, ModelFailure
from ..gather import InputGatherer, OutputScatterer
from ..halves import answer_apart
from ..regions import OnDevice, RegionCopies
from ..states import StateScatterer
from .tensors import WRONG_FORM, on_device, to_host, to_numpy, to_torch, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ...engine.port.work import BackendJob, Batch
    from ...schema.tensor import Tensor
    from ...schema.wire.generated.inference import ModelConfig
    from .files import Opened
    from .naming import Arguments
    from .options import Options

_log = logging.getLogger("despina.backends.pytorch")


class PyTorchInstance:
    """Executes batches on one device. On a GPU: on a stream of its own."""

    def __init__(
        self,
        name: str,
        torch: Any,
        config: ModelConfig,
        opened: Opened,
        arguments: Arguments,
        results: Sequence[str],
        options: Options,
        device: Any,
    ) -> None:
        self.name = name
        self.movable = device.type == "cpu"
        self._torch = torch
        self._model_name = config.name
        self._call: Any = opened.call
        self._arguments = arguments
        self._results = results
        self._options = options
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._gatherer = InputGatherer(config)
        self._scatterer = OutputScatterer(config)
        self._states = StateScatterer(config)
        self.takes_device_memory = device.type == "cuda"
        self._regions = (
            RegionCopies(self._gatherer, self._scatterer, device.index) if self.takes_device_memory else None
        )
        self._kinds = {slot.name: slot.kind for slot in self._gatherer.slots}
        self._answered = {name: slot.kind for name, slot in self._scatterer.slots.items()} | self._states.kinds

    def execute(self, batch: Batch) -> None:
        answer_apart(self.name, _log, batch, batch.jobs, batch.size, self._answer_together)

    def close(self) -> None:
        self._call = None
        if self._stream is not None:
            self._torch.cuda.empty_cache()

    def _answer_together(self, batch: Batch, jobs: Sequence[BackendJob], rows: int) -> None:
        torch = self._torch
        with self._on_stream(), torch.inference_mode() if self._options.inference_mode else torch.no_grad():
            resident = self._regions.resident(jobs, rows) if self._regions is not None else {}
            if resident and self._stream is not None:
                self._stream.synchronize()  # memory that a batch which failed may still be using
            tensors = {
                name: to_torch(torch, array, self._kinds[name], self._device)
                for name, array in self._gatherer.gather(jobs, rows, resident).items()
            }
            tensors |= {name: on_device(torch, one, self._device) for name, one in resident.items()}
            batch.inputs_ready_ns = time.monotonic_ns()
            try:
                found = self._results_of(self._called(tensors))
            except Fault:
                raise
            except Exception as error:
                if len(jobs) == 1:
                    _log.error("model instance '%s' raised", self.name, exc_info=error)
                raise ModelFailure(f"PyTorch execute failure: {error}") from error
            wanted = self._scatterer.wanted(jobs)
            own = self._put_on_devices(jobs, {name: found[name] for name in wanted})
            needed = {name: found[name] for name in {**dict.fromkeys(wanted), **self._states.kinds} if name not in own}
            if self._stream is not None:
                needed = to_host(torch, needed, self._stream)
            arrays = {name: self._array(name, needed) for name in needed}
            batch.outputs_started_ns = time.monotonic_ns()
        self._states.check(rows, arrays)
        self._scatterer.scatter(jobs, rows, {name: arrays[name] for name in wanted if name not in own}, own)
        self._states.keep(jobs, arrays)
        if self._options.cleans_cache and self._stream is not None:
            torch.cuda.empty_cache()

    def _put_on_devices(self, jobs: Sequence[BackendJob], results: dict[str, Any]) -> dict[str, list[Tensor | None]]:
        """Those results that need not come to the host: a tensor for each job that wants it."""
        own: dict[str, list[Tensor | None]] = {}
        if self._regions is None or not any(job.request.shared is not None for job in jobs):
            return own
        if self._stream is not None:
            self._stream.synchronize()
        for name, result in results.items():
            kind = self._answered[name]
            if name in self._states.kinds or kind.byte_size == 0 or not isinstance(result, self._torch.Tensor):
                continue
            if result.device != self._device or result.dtype != torch_dtype(self._torch, kind):
                continue
            if not result.is_contiguous():
                continue  # rows that do not follow one another; the host's copy arranges them
            tensors = self._regions.put(jobs, OnDevice(name, kind, tuple(result.shape), result.data_ptr()))
            if tensors is not None:
                own[name] = tensors
        return own

    def _called(self, tensors: dict[str, Any]) -> Any:
        arguments = self._arguments
        if arguments.is_dictionary:
            return self._call(tensors)
        positions = [tensors[name] for name in arguments.positions if name in tensors]
        keywords = {argument: tensors[name] for argument, name in arguments.keywords if name in tensors}
        return self._call(*positions, **keywords)

    def _results_of(self, returned: Any) -> dict[str, Any]:
        """Each output's own. Raises ModelFailure for what is of no form that outputs have, and for too few."""
        torch = self._torch
        if isinstance(returned, tuple):
            results: Sequence[Any] = returned
        elif isinstance(returned, torch.Tensor) or (
            isinstance(returned, list) and all(isinstance(item, str) for item in returned)
        ):
            results = (returned,)
        elif isinstance(returned, list) and self._options_allow_lists():
            results = returned
        else:
            raise ModelFailure(WRONG_FORM)
        found = {name: result for name, result in zip(self._results, results, strict=False) if name}
        missing = [name for name in self._results if name and name not in found]
        if missing:
            raise ModelFailure(
                f"The number of the model's results is {len(results)}: there is none for output '{missing[0]}'"
            )
        return found

    def _options_allow_lists(self) -> bool:
        """Compiled packages answer by lists, and know no others."""
        return not isinstance(self._call, self._torch.nn.Module)

    def _array(self, name: str, found: dict[str, Any]) -> np.ndarray:
        kind = self._answered[name]
        array = to_numpy(self._torch, self._model_name, name, kind, found[name])
        if kind.name == "BYTES" and self._scatterer.batching:
            array = array.reshape(len(array), 1)
        return array

    def _on_stream(self) -> Any:
        return nullcontext() if self._stream is None else self._torch.cuda.stream(self._stream)
