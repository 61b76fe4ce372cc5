"""One executor's view of a session: a batch's arrays in, one call, arrays out."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ...schema.fault import ModelFailure
from ..gather import InputGatherer, OutputScatterer, Reshape
from ..halves import answer_apart
from ..states import StateScatterer
from .failure import failure_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.work import BackendJob, Batch
    from ...schema.datatype import DataType
    from ...schema.wire.generated.inference import ModelConfig
    from .sessions import Session
    from .signature import Signature

_log = logging.getLogger("despina.backends.tensorflow")

CALLABLES_MAX = 16
"""For so many sets of outputs, which clients choose, there is a call that computes no others."""


class TensorFlowInstance:
    """Executes batches on one session."""

    def __init__(
        self,
        name: str,
        session: Session,
        config: ModelConfig,
        signature: Signature,
        *,
        movable: bool,
        give_back: Callable[[Session], None],
    ) -> None:
        self.name = name
        self.movable = movable
        self._session: Session | None = session
        self._give_back = give_back
        self._signature = signature
        self._copies = session.writes_in_place
        self._gatherer = InputGatherer(config)
        self._scatterer = OutputScatterer(config)
        self._states = StateScatterer(config)
        told = [name for made in config.batch_input for name in made.target_name]
        self._inputs = {name: signature.inputs[name] for name in (*self._gatherer.names, *told)}
        self._views = [_view_of(tensor.kind) for tensor in self._inputs.values()]
        self._outputs = {name: signature.outputs[name] for name in (*self._scatterer.names, *self._states.kinds)}
        self._callables: dict[tuple[str, ...], Callable[..., Any]] = {}
        if config.max_batch_size == 0:
            # Scalars of the model are [1] in the configuration.
            self._gatherer.slots = tuple(
                slot if signature.inputs[slot.name].shape != () else attrs.evolve(slot, reshape=Reshape((), ()))
                for slot in self._gatherer.slots
            )
        self._call_for(self._scatterer.names)  # what cannot be computed is found out now
        self._scalar_dims = {
            item.name: tuple(item.dims) for item in config.output if item.reshape is None and config.max_batch_size == 0
        }

    def execute(self, batch: Batch) -> None:
        answer_apart(self.name, _log, batch, batch.jobs, batch.size, self._answer_together)

    def close(self) -> None:
        self._callables.clear()
        session, self._session = self._session, None
        if session is not None:
            self._give_back(session)

    def _answer_together(self, batch: Batch, jobs: Sequence[BackendJob], rows: int) -> None:
        gathered = self._gatherer.gather(jobs, rows)
        fed = [
            gathered[name] if view is None else gathered[name].view(view)
            for name, view in zip(self._inputs, self._views, strict=True)
        ]
        wanted = self._scatterer.wanted(jobs)
        batch.inputs_ready_ns = time.monotonic_ns()
        try:
            names, call = self._call_for(wanted)
            results = call(*fed)
        except Exception as error:
            text = failure_text(error)
            if len(jobs) == 1:
                _log.error("model instance '%s': %s", self.name, text, exc_info=error)
            raise ModelFailure(text) from error
        batch.outputs_started_ns = time.monotonic_ns()
        found = {name: self._array(name, result, fed) for name, result in zip(names, results, strict=True)}
        self._states.check(rows, found)
        self._scatterer.scatter(jobs, rows, {name: found[name] for name in wanted})
        self._states.keep(jobs, found)

    def _call_for(self, wanted: Sequence[str]) -> tuple[tuple[str, ...], Callable[..., Any]]:
        """What computes these outputs and the states, with the names of its results."""
        names = tuple(dict.fromkeys((*wanted, *self._states.kinds)))
        call = self._callables.get(names)
        if call is None:
            if len(self._callables) >= CALLABLES_MAX:
                names = tuple(self._outputs)
            session = self._session
            assert session is not None, "execute after close"
            call = self._callables.get(names) or session.callable(
                [tensor.tensor_name for tensor in self._inputs.values()],
                [self._outputs[name].tensor_name for name in names],
            )
            self._callables[names] = call
        return names, call

    def _array(self, name: str, result: Any, fed: Sequence[np.ndarray]) -> np.ndarray:
        """Of nobody else's memory: TensorFlow hands inputs through as outputs, and variables as they stand."""
        kind = self._outputs[name].kind
        array: np.ndarray = np.asarray(result, object) if kind.name == "BYTES" else np.asarray(result)
        if self._copies or any(np.may_share_memory(array, other) for other in fed):
            array = array.copy()
        if kind.name == "BF16":
            array = array.view(np.uint16)
        dims = self._scalar_dims.get(name)
        return array if array.ndim or dims is None else array.reshape((1,) * len(dims))


def _view_of(kind: DataType) -> Any:
    """What TensorFlow's arrays have as dtype, where that is not ours."""
    if kind.name != "BF16":
        return None
    import ml_dtypes  # TensorFlow's

    return ml_dtypes.bfloat16
