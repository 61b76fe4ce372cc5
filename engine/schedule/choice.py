"""Which scheduler a model's configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .order import ARRIVAL
from .policies import batch_bounds
from .rules import dynamic_batcher
from .sequence import SequenceBatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.wire.generated.inference import ModelConfig
    from .dynamic import DynamicBatcher
    from .order import QueueOrder
    from .states import States


def scheduler_of(
    config: ModelConfig,
    states: States,
    queue_size_max: int,
    clock: Callable[[], float],
    order: QueueOrder = ARRIVAL,
) -> DynamicBatcher | SequenceBatcher:
    """An empty one, with the model's rules and bounds."""
    if config.sequence_batching is None:
        return dynamic_batcher(config, queue_size_max, clock, order)
    batch_bounds(config)  # refuses a policy: what a sequence batcher joins is bounded by its slots and rows
    return SequenceBatcher(config, states, queue_size_max, clock)
