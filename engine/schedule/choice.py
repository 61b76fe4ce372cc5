"""Which scheduler a model's configuration asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .batching import BatchRule
from .order import ARRIVAL
from .rules import dynamic_batcher
from .sequence import SequenceBatcher, SequenceRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.wire.generated.inference import ModelConfig
    from .dynamic import DynamicBatcher
    from .order import QueueOrder


def scheduler_of(
    config: ModelConfig, queue_size_max: int, clock: Callable[[], float], order: QueueOrder = ARRIVAL
) -> DynamicBatcher | SequenceBatcher:
    """An empty one, with the model's rules and bounds."""
    if config.sequence_batching is None:
        return dynamic_batcher(config, queue_size_max, clock, order)
    batching = config.sequence_batching
    rows_max = max(1, config.max_batch_size)
    rule = SequenceRule(
        rows_max=rows_max, slots=rows_max, idle_s=batching.max_sequence_idle_microseconds * 1e-6, oldest=None
    )
    if batching.oldest is not None:
        oldest = BatchRule(
            rows_max=rows_max,
            preferred=tuple(sorted(set(batching.oldest.preferred_batch_size))),
            delay_s=batching.oldest.max_queue_delay_microseconds * 1e-6,
        )
        candidates = batching.oldest.max_candidate_sequences or rows_max
        rule = SequenceRule(rows_max=rows_max, slots=candidates, idle_s=rule.idle_s, oldest=oldest)
    elif batching.direct is not None:
        rule = SequenceRule(
            rows_max=rows_max,
            slots=rows_max,
            idle_s=rule.idle_s,
            oldest=None,
            direct_delay_s=batching.direct.max_queue_delay_microseconds * 1e-6,
            direct_slots_min=math.ceil(batching.direct.minimum_slot_utilization * rows_max),
        )
    return SequenceBatcher(config, rule, queue_size_max, clock)
