"""What a model's configuration says about its queue, as the scheduler wants it. Pure; large numbers cost no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ...schema.wire.generated.inference import ModelQueuePolicy
from ..request.batch import Batch
from ..request.stream import StreamBatch
from .batching import BatchRule
from .dynamic import DynamicBatcher
from .order import ARRIVAL
from .policies import batch_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...schema.wire.generated.inference import ModelConfig
    from .order import QueueOrder


@attrs.frozen
class QueuePolicies:
    """The queue policy of each priority level."""

    levels: int
    """How many there are, at least 1."""
    level_default: int
    """Index of the level, from 0, of requests that name none."""
    default: ModelQueuePolicy
    by_level: Mapping[int, ModelQueuePolicy]
    """Index of the level -> its own policy, where it has one."""

    @classmethod
    def of(cls, config: ModelConfig) -> QueuePolicies:
        batching = config.dynamic_batching
        if batching is None:
            return cls(1, 0, ModelQueuePolicy(), {})
        levels = max(1, batching.priority_levels)
        return cls(
            levels,
            max(1, batching.default_priority_level) - 1,
            batching.default_queue_policy or ModelQueuePolicy(),
            {level - 1: policy for level, policy in batching.priority_queue_policy.items() if 1 <= level <= levels},
        )

    def at(self, level: int) -> ModelQueuePolicy:
        return self.by_level.get(level, self.default)

    def level_of(self, priority: int) -> int:
        """Index of the level that a request's priority means."""
        return priority - 1 if 0 < priority <= self.levels else self.level_default

    @property
    def time_out(self) -> bool:
        """Whether any level bounds the time in the queue."""
        return any(policy.default_timeout_microseconds for policy in (self.default, *self.by_level.values()))


def dynamic_batcher(
    config: ModelConfig, queue_size_max: int, clock: Callable[[], float], order: QueueOrder = ARRIVAL
) -> DynamicBatcher:
    """An empty batcher with the model's rule and bounds. Raises InvalidArgument for bounds that it cannot have."""
    bounds = batch_bounds(config)
    batching = config.dynamic_batching
    policies = QueuePolicies.of(config)
    if batching is None or config.max_batch_size == 0:
        rule = BatchRule(rows_max=1)
    else:
        rule = BatchRule(
            rows_max=config.max_batch_size,
            preferred=tuple(sorted(set(batching.preferred_batch_size))),
            delay_s=batching.max_queue_delay_microseconds * 1e-6,
            bounds=bounds,
        )
    decoupled = is_decoupled(config)
    return DynamicBatcher(
        rule,
        queue_size_max,
        clock,
        prioritised=policies.levels > 1,
        size_max_of=lambda level: policies.at(level).max_queue_size,
        # Streams would have to be held back whole, with their senders waiting for each other.
        ordered=batching is not None and batching.preserve_ordering and not decoupled,
        batch_type=StreamBatch if decoupled else Batch,
        order=order,
    )


def is_decoupled(config: ModelConfig) -> bool:
    """Whether the model may answer a request any number of times."""
    return config.model_transaction_policy is not None and config.model_transaction_policy.decoupled
