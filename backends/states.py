"""From a batch's output arrays to what each request's sequence is to remember. For backends that compute on batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schema.config.sequence_tensors import state_outputs
from ..schema.datatype import BY_NUMBER
from ..schema.fault import ModelFailure
from ..schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from ..engine.port.work import BackendJob
    from ..schema.wire.generated.inference import ModelConfig


class StateScatterer:
    """Everything runs on the executing thread."""

    def __init__(self, config: ModelConfig) -> None:
        self.model_name = config.name
        self.batching = config.max_batch_size > 0
        self.kinds = {item.name: BY_NUMBER[int(item.data_type)] for item in state_outputs(config)}
        """Output -> its datatype."""

    def check(self, rows: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Raises ModelFailure where a state does not have one row for each of the batch's."""
        for name in self.kinds if self.batching else ():
            array = arrays[name]
            if array.ndim == 0 or array.shape[0] != rows:
                raise ModelFailure(
                    f"model '{self.model_name}', state '{name}': expected {rows} rows for a batch of {rows}, got shape "
                    f"{list(array.shape)}"
                )

    def keep(self, jobs: Sequence[BackendJob], arrays: Mapping[str, np.ndarray]) -> None:
        """Gives every job's sequence its rows of the states."""
        for name, kind in self.kinds.items():
            array = arrays[name]
            start = 0
            for job in jobs:
                # A copy of its own, or each sequence would keep the states of all.
                mine = array if len(jobs) == 1 else array[start : start + job.batch_size].copy()
                job.set_state(name, Tensor(name, kind.name, mine.shape, None, mine))
                start += job.batch_size
