"""One executor's infer request: a batch's arrays in, one call, copies of its outputs out."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ...schema.fault import Internal, ModelFailure
from ..gather import InputGatherer, OutputScatterer, Reshape
from ..halves import answer_apart
from ..states import StateScatterer
from .failure import failure_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...engine.port.work import BackendJob, Batch
    from ...schema.wire.generated.inference import ModelConfig
    from .options import Options
    from .signature import Signature

_log = logging.getLogger("despina.backends.openvino")


class OpenVINOInstance:
    """Executes batches on one infer request, which any thread may call, one at a time."""

    def __init__(
        self,
        name: str,
        ov: Any,
        request: Any,
        config: ModelConfig,
        signature: Signature,
        *,
        fixed_rows: int,
        options: Options,
    ) -> None:
        self.name = name
        self.movable = options.device == "CPU"
        self._ov = ov
        self._request = request
        self._fixed_rows = fixed_rows
        """0: any number."""
        self._pads = options.pads
        self._held: dict[str, Any] = {}
        """What the infer request was given last: it has the arrays' addresses, and does not keep them alive."""
        self._gatherer = InputGatherer(config)
        self._scatterer = OutputScatterer(config)
        self._states = StateScatterer(config)
        self._inputs = {slot.name: signature.input_by_name[slot.name].index for slot in self._gatherer.slots}
        outputs = (*self._scatterer.names, *self._states.kinds)
        self._outputs = {name: signature.output_by_name[name].index for name in outputs}
        if config.max_batch_size == 0:
            # Scalars of the model are [1] in the configuration.
            self._gatherer.slots = tuple(
                slot if signature.input_by_name[slot.name].shape != () else attrs.evolve(slot, reshape=Reshape((), ()))
                for slot in self._gatherer.slots
            )
        self._scalar_dims = {
            item.name: tuple(item.dims) for item in config.output if item.reshape is None and config.max_batch_size == 0
        }

    def execute(self, batch: Batch) -> None:
        if self._fixed_rows and not self._pads:
            if batch.size != self._fixed_rows:
                raise Internal(
                    f"expected requests with batch size '{self._fixed_rows}', got '{batch.size}'... this error can be "
                    "avoided by setting 'ENABLE_BATCH_PADDING' parameter in model configuration to 'YES' at a "
                    "performance cost."
                )
            self._answer_together(batch, batch.jobs, batch.size)  # no smaller part could be executed
        else:
            answer_apart(self.name, _log, batch, batch.jobs, batch.size, self._answer_together)

    def close(self) -> None:
        self._request = None
        self._held.clear()

    def _answer_together(self, batch: Batch, jobs: Sequence[BackendJob], rows: int) -> None:
        request = self._request
        arrays = self._gatherer.gather(jobs, rows)
        batch.inputs_ready_ns = time.monotonic_ns()
        try:
            for name, array in arrays.items():
                self._held[name] = tensor = self._tensor(array, rows)
                request.set_input_tensor(self._inputs[name], tensor)
            request.infer(share_outputs=True, decode_strings=False)
        except Exception as error:
            text = failure_text("running inference", error)
            if len(jobs) == 1:
                _log.error("model instance '%s': %s", self.name, text, exc_info=error)
            raise ModelFailure(text) from error
        batch.outputs_started_ns = time.monotonic_ns()
        wanted = self._scatterer.wanted(jobs)
        found = {name: self._array(name, rows) for name in {**dict.fromkeys(wanted), **self._states.kinds}}
        self._states.check(rows, found)
        self._scatterer.scatter(jobs, rows, {name: found[name] for name in wanted})
        self._states.keep(jobs, found)

    def _tensor(self, array: np.ndarray, rows: int) -> Any:
        if self._fixed_rows and rows != self._fixed_rows:
            padded = np.zeros((self._fixed_rows, *array.shape[1:]), array.dtype)
            padded[:rows] = array
            array = padded
        # OpenVINO shares only what is writable, and a request's bytes are not.
        return self._ov.Tensor(array, shared_memory=array.flags.writeable and array.flags.c_contiguous)

    def _array(self, name: str, rows: int) -> np.ndarray:
        """A copy: the next execution writes there."""
        array: np.ndarray = self._request.get_output_tensor(self._outputs[name]).data
        if self._fixed_rows:
            if array.shape[:1] != (self._fixed_rows,):
                raise ModelFailure(
                    f"expected the batch size of openvino model output to be {self._fixed_rows}, got "
                    f"{array.shape[0] if array.ndim else 'a scalar'}"
                )
            array = array[:rows]
        array = array.copy()
        dims = self._scalar_dims.get(name)
        return array if array.ndim or dims is None else array.reshape((1,) * len(dims))
