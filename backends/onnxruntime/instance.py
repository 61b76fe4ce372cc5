"""One executor's view of an ONNX Runtime session: arrays in, one call, arrays out."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from ...schema.fault import InvalidArgument, ModelFailure
from ..gather import InputGatherer, OutputScatterer, Reshape
from ..halves import answer_apart
from ..states import StateScatterer
from .bits import BitPatterns
from .bound import BoundRunner
from .failure import failure_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...engine.port.work import BackendJob, Batch
    from ...schema.wire.generated.inference import ModelConfig
    from .signature import Signature

_log = logging.getLogger("despina.backends.onnxruntime")


class OnnxInstance:
    """Executes batches on one session, which CPU instances of a model share: its `run` may be called concurrently."""

    def __init__(
        self,
        name: str,
        ort: Any,
        session: Any,
        config: ModelConfig,
        signature: Signature,
        *,
        movable: bool,
        run_options: Any,
    ) -> None:
        self.name = name
        self.movable = movable
        self._session = session
        # The public `run` checks its arguments in Python (2-3 µs); the engine has validated them already.
        self._run = getattr(getattr(session, "_sess", None), "run", session.run)
        self._run_options = run_options
        self._gatherer = InputGatherer(config)
        self._scatterer = OutputScatterer(config)
        self._states = StateScatterer(config)
        self._text_inputs = [slot.name for slot in self._gatherer.slots if slot.kind.name == "BYTES"]
        outputs = {name: slot.kind for name, slot in self._scatterer.slots.items()} | self._states.kinds
        self._text_outputs = {name for name, kind in outputs.items() if kind.name == "BYTES"}
        bits = BitPatterns.of(ort, session, {slot.name: slot.kind for slot in self._gatherer.slots}, outputs)
        if bits is not None:
            self._run = bits.run
        self._bound = BoundRunner.of(session, config, signature) if movable and run_options is None else None
        self._everything: Sequence[str] = ()
        """What the last caller asked for who asked for all: most ask with the same object."""
        self._scalar_outputs: dict[str, tuple[int, ...]] = {}
        if config.max_batch_size == 0:
            self._adapt_scalars(config, signature)

    def execute(self, batch: Batch) -> None:
        jobs = batch.jobs
        problem: Exception | None = None
        if self._bound is not None:
            try:
                if self._answered_bound(batch, jobs):
                    return
            except Exception as error:
                problem = error
        whole = answer_apart(self.name, _log, batch, jobs, batch.size, self._answer_together)
        if problem is not None and whole:
            # Likely an output of another shape than the file says. Where both ways fail, a request is to blame.
            _log.warning("model instance '%s': not binding any more: %s", self.name, failure_text(problem))
            self._bound = None

    def _answer_together(self, batch: Batch, jobs: Sequence[BackendJob], rows: int) -> None:
        feeds = self._feeds(jobs, rows)
        wanted = names = self._scatterer.wanted(jobs)
        if self._states.kinds:
            names = [*wanted, *(name for name in self._states.kinds if name not in wanted)]
        batch.inputs_ready_ns = time.monotonic_ns()
        try:
            results = self._run(names, feeds, self._run_options)
        except Exception as error:
            text = failure_text(error)
            if len(jobs) == 1:
                _log.error("model instance '%s': %s", self.name, text, exc_info=error)
            raise ModelFailure(text) from error
        batch.outputs_started_ns = time.monotonic_ns()
        arrays = dict(zip(names, results, strict=True))
        if self._text_outputs or self._scalar_outputs:
            self._adapt_outputs(arrays)
        if self._states.kinds:
            self._states.check(rows, arrays)
            self._scatterer.scatter(jobs, rows, {name: arrays[name] for name in wanted})
            self._states.keep(jobs, arrays)
        else:
            self._scatterer.scatter(jobs, rows, arrays)

    def _answered_bound(self, batch: Batch, jobs: Sequence[BackendJob]) -> bool:
        bound = self._bound
        assert bound is not None
        everything = self._everything
        for job in jobs:
            wanted = job.request.outputs
            if wanted is not everything:
                if wanted and len(set(wanted)) != len(self._scatterer.names):
                    # Callers who want less should not pay for all.
                    return bound.execute(batch, jobs, self._scatterer.wanted(jobs))
                self._everything = everything = wanted
        return bound.execute(batch, jobs)

    def close(self) -> None:
        self._bound = None
        self._session = None
        self._run = None

    def _feeds(self, jobs: Sequence[BackendJob], rows: int) -> dict[str, np.ndarray]:
        feeds = self._gatherer.gather(jobs, rows)
        for name in self._text_inputs:
            if name in feeds:
                feeds[name] = _as_text(name, feeds[name])
        return feeds

    def _adapt_scalars(self, config: ModelConfig, signature: Signature) -> None:
        """Scalars of the model are [1] in the configuration; the gatherer drops that dimension, we put it back."""
        tensors = {**signature.initializers, **signature.inputs}
        self._gatherer.slots = tuple(
            slot if tensors[slot.name].shape else attrs.evolve(slot, reshape=Reshape((), ()))
            for slot in self._gatherer.slots
        )
        for item in config.output:
            if not signature.outputs[item.name].shape and item.reshape is None:
                self._scalar_outputs[item.name] = tuple(item.dims)

    def _adapt_outputs(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            if name in self._text_outputs:
                array = np.asarray(array, dtype=object)
                items = np.empty(array.size, dtype=object)
                items[:] = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel()]
                arrays[name] = array = items.reshape(array.shape)
            dims = self._scalar_outputs.get(name)
            if dims is not None:
                # Files without a rank for this output look like scalars too, so what really came out decides.
                array = np.asarray(array)
                arrays[name] = array if array.ndim else array.reshape([1] * len(dims))


def _as_text(name: str, array: np.ndarray) -> np.ndarray:
    """BYTES as the `str` objects that ONNX Runtime's strings are. Raises InvalidArgument where they are not UTF-8."""
    try:
        items = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"input '{name}': ONNX strings must be UTF-8: {error}") from None
    text = np.empty(len(items), dtype=object)
    text[:] = items
    return text.reshape(array.shape)
