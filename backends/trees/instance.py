"""One executor's view of a model: a batch's rows in, one call, a row of answers for each."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema.fault import Fault, InvalidArgument, ModelFailure
from ..gather import InputGatherer, OutputScatterer
from ..halves import answer_apart
from .configuration import CONTRIBUTIONS, columns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...engine.port.work import BackendJob, Batch
    from ...schema.wire.generated.inference import ModelConfig
    from .configuration import Shape
    from .options import Options
    from .predictor import Predictor

_log = logging.getLogger("despina.backends.trees")


class TreesInstance:
    """Any thread may execute, one at a time; the model is shared with other instances."""

    movable = True

    def __init__(self, name: str, config: ModelConfig, predictor: Predictor, shape: Shape, options: Options) -> None:
        self.name = name
        self._predictor: Predictor | None = predictor
        self._shape = shape
        self._threshold = options.threshold
        self._gatherer = InputGatherer(config)
        self._scatterer = OutputScatterer(config)
        (self._input,) = self._gatherer.names
        self._columns = {item.name: columns_of(config, item) for item in config.output}

    def execute(self, batch: Batch) -> None:
        answer_apart(self.name, _log, batch, batch.jobs, batch.size, self._answer_together)

    def close(self) -> None:
        self._predictor = None

    def _answer_together(self, batch: Batch, jobs: Sequence[BackendJob], rows: int) -> None:
        given = self._gatherer.gather(jobs, rows)[self._input]
        features = self._shape.features
        if features is not None and given.shape[-1] != features:
            raise InvalidArgument(
                f"input '{self._input}': the model's rows have {features} features, got shape {list(given.shape)}"
            )
        batch.inputs_ready_ns = time.monotonic_ns()
        wanted = self._scatterer.wanted(jobs)
        try:
            arrays = {name: self._answer(name, given) for name in wanted}
        except Fault:
            raise
        except Exception as error:
            if len(jobs) == 1:
                _log.error("model instance '%s' raised", self.name, exc_info=error)
            raise ModelFailure(f"{type(error).__name__}: {error}") from error
        batch.outputs_started_ns = time.monotonic_ns()
        self._scatterer.scatter(jobs, rows, arrays)

    def _answer(self, name: str, rows: np.ndarray) -> np.ndarray:
        predictor, shape = self._predictor, self._shape
        assert predictor is not None
        kind = self._scatterer.slots[name].kind
        if name == CONTRIBUTIONS:
            assert shape.contributions is not None
            found = predictor.contributions(rows) if len(rows) else np.empty((0, *shape.contributions))
        elif not len(rows):  # libraries differ in what they think of no rows
            found = np.empty((0, max(self._columns[name], 1)))
        elif shape.wanted == "class":
            found = self._classes(predictor, rows, as_text=kind.name == "BYTES")
        else:
            found = predictor.scores(rows)
            if shape.wanted == "probabilities" and found.shape[1] != self._columns[name] != -1:
                found = np.hstack((1 - found, found)) if found.shape[1] == 1 else found[:, 1:]
        return found.astype(kind.dtype, copy=False) if kind.byte_size else found

    def _classes(self, predictor: Predictor, rows: np.ndarray, *, as_text: bool) -> np.ndarray:
        found: Any = predictor.classes(rows, self._threshold)
        if as_text:
            texts = np.empty((len(found), 1), object)
            texts[:, 0] = [str(label).encode() for label in found]
            return texts
        if self._shape.has_text_labels:
            assert predictor.labels is not None
            found = np.searchsorted(predictor.labels, found)
        return np.asarray(found).reshape(len(found), 1)
