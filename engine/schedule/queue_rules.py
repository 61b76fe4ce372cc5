"""What a model's configuration says about its queue and its executor, as the actor wants it. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ...schema.fault import Unavailable
from ...schema.wire.generated.inference import ModelQueuePolicy
from ..execute.placement import Placement
from .batching import BatchRule
from .mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.wire.generated.inference import ModelConfig
    from ..port.settings import EngineSettings

EXECUTOR_PARAMETER = "DESPINA_EXECUTOR"
"""Model parameter: `inline`, `thread` or `auto` (the default) for instances that can move."""


def placement(config: ModelConfig) -> Placement:
    """Where movable instances execute. Raises Unavailable for a parameter that says neither."""
    wanted = config.parameters.get(EXECUTOR_PARAMETER)
    value = wanted.string_value if wanted is not None else "auto"
    if value not in ("inline", "thread", "auto"):
        raise Unavailable(
            f"model '{config.name}', parameter '{EXECUTOR_PARAMETER}': expected inline, thread or auto, got '{value}'"
        )
    return Placement(forced=value != "auto", inline=value == "inline")


def policies(config: ModelConfig) -> list[ModelQueuePolicy]:
    """The queue policy of each priority level; empty for models without any."""
    batching = config.dynamic_batching
    if batching is None:
        return []
    default = batching.default_queue_policy or ModelQueuePolicy()
    levels = max(1, batching.priority_levels)
    return [batching.priority_queue_policy.get(level, default) for level in range(1, levels + 1)]


def priority_default(config: ModelConfig) -> int:
    """The level, from 1, of requests that name none."""
    batching = config.dynamic_batching
    return max(1, batching.default_priority_level) if batching is not None else 1


def mailbox(config: ModelConfig, settings: EngineSettings, clock: Callable[[], float]) -> Mailbox:
    """An empty mailbox with the model's batching rule and bounds."""
    batching = config.dynamic_batching
    if batching is None or config.max_batch_size == 0:
        rule = BatchRule(rows_max=1)
    else:
        rule = BatchRule(
            rows_max=config.max_batch_size,
            preferred=tuple(sorted(set(batching.preferred_batch_size))),
            delay_s=batching.max_queue_delay_microseconds * 1e-6,
        )
    sizes = [policy.max_queue_size for policy in policies(config)] or [0]
    made = Mailbox(rule, sizes, settings.queue_size_max, clock)
    decoupled = config.model_transaction_policy is not None and config.model_transaction_policy.decoupled
    # Streams would have to be held back whole, with their senders waiting for each other.
    if batching is not None and batching.preserve_ordering and not decoupled:
        made.ordered = deque()
    return made
