"""The defaults that depend on other fields, written out: they are visible in the configuration that clients read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fault import Internal
from ..wire.generated.inference import (
    ModelConfig,
    ModelOptimizationPolicy,
    ModelOptimizationPolicyPinnedMemoryBuffer,
    ModelTransactionPolicy,
    ModelVersionPolicy,
    ModelVersionPolicyLatest,
)
from .copying import copied

if TYPE_CHECKING:
    from collections.abc import Sequence

SEQUENCE_IDLE_MICROSECONDS = 1_000_000
"""How long a sequence may be silent when the model does not say."""

_SCHEDULING_CHOICES = {"dynamic_batching": 11, "sequence_batching": 13, "ensemble_scheduling": 15}
"""The schedulers' fields and their numbers; at most one is set."""


def normalise(config: ModelConfig) -> ModelConfig:
    """The configuration with its dependent defaults filled in. Applying it twice is applying it once."""
    config = copied(config)
    if config.version_policy is None:
        config.version_policy = ModelVersionPolicy(latest=ModelVersionPolicyLatest(num_versions=1))
    dynamic, sequence = config.dynamic_batching, config.sequence_batching
    whole_batch = [config.max_batch_size] if config.max_batch_size > 0 else []
    if dynamic is not None:
        dynamic.preferred_batch_size = dynamic.preferred_batch_size or whole_batch
    if sequence is not None:
        sequence.max_sequence_idle_microseconds = sequence.max_sequence_idle_microseconds or SEQUENCE_IDLE_MICROSECONDS
        if sequence.oldest is not None:
            sequence.oldest.preferred_batch_size = sequence.oldest.preferred_batch_size or whole_batch
    if config.ensemble_scheduling is None:
        optimization = config.optimization = config.optimization or ModelOptimizationPolicy()
        if optimization.input_pinned_memory is None:
            optimization.input_pinned_memory = ModelOptimizationPolicyPinnedMemoryBuffer(enable=True)
        if optimization.output_pinned_memory is None:
            optimization.output_pinned_memory = ModelOptimizationPolicyPinnedMemoryBuffer(enable=True)
    return config


def accept_completion(original: ModelConfig, completed: ModelConfig) -> ModelConfig:
    """What becomes of `original` when a backend hands back `completed`: only max_batch_size, input, output, the
    transaction policy, and a scheduling choice where there was none, are taken over; the result is normalised.

    Raises Internal when the backend changed or dropped a scheduling choice that the user had made.
    """
    config, completed = copied(original), copied(completed)
    config.max_batch_size = completed.max_batch_size
    config.input = completed.input
    config.output = completed.output
    choice = scheduling_choice(config)
    if choice is None:
        config.dynamic_batching = completed.dynamic_batching
        config.sequence_batching = completed.sequence_batching
        config.ensemble_scheduling = completed.ensemble_scheduling
    elif choice != scheduling_choice(completed):
        # The protocol's text says the old choice twice.
        number = _SCHEDULING_CHOICES[choice]
        raise Internal(f"Cannot update scheduling choice from {number} to {number} when auto-completing.")
    if completed.model_transaction_policy is not None:
        config.model_transaction_policy = ModelTransactionPolicy(decoupled=completed.model_transaction_policy.decoupled)
    return normalise(config)


def scheduling_choice(config: ModelConfig) -> str | None:
    """The name of the scheduler's field that is set, or None for the default scheduler."""
    return next((name for name in _SCHEDULING_CHOICES if getattr(config, name) is not None), None)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as error texts and logs show it: `[-1,3,224,224]`."""
    return f"[{','.join(map(str, shape))}]"
