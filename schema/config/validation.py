"""Which configurations make sense, tensors and instance groups apart: names, batching, sequences, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fault import InvalidArgument
from ..message_type import enum_name
from ..wire.generated.inference import DataType, ModelQueuePolicyTimeoutAction, ModelSequenceBatchingControlKind
from .backend_names import ENSEMBLE_PLATFORM, validate_names
from .collecting import collected, refuse_all
from .ensemble_graph import validate_ensemble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..wire.generated.inference import (
        ModelConfig,
        ModelDynamicBatching,
        ModelMetrics,
        ModelSequenceBatching,
        ModelSequenceBatchingControl,
    )

_CORRELATION_TYPES = frozenset(
    {
        DataType.TYPE_UINT64,
        DataType.TYPE_INT64,
        DataType.TYPE_UINT32,
        DataType.TYPE_INT32,
        DataType.TYPE_STRING,
    }
)
_CUSTOMISABLE_METRICS = frozenset({"nv_inference_first_response_histogram_ms"})


def validate(config: ModelConfig) -> None:
    """Refuses what is wrong in a normalised configuration, all of it at once, with the protocol's texts."""
    validate_names(config)
    name = config.name
    found: list[str] = []
    if config.max_batch_size < 0:
        found.append(f"'max_batch_size' must be non-negative value for {name}")
    if config.version_policy is None:
        found.append(f"must specify 'version policy' for {name}")
    if config.dynamic_batching is not None:
        found += _dynamic_batching_faults(config.dynamic_batching, config)
    if config.sequence_batching is not None:
        found += _sequence_batching_faults(config.sequence_batching, config)
    with collected(found):
        if config.ensemble_scheduling is not None:
            validate_ensemble(config)
        elif config.platform == ENSEMBLE_PLATFORM:
            raise InvalidArgument(
                f"ensemble scheduling must be set for ensemble {name} whose platform is {ENSEMBLE_PLATFORM}"
            )
    decoupled = config.model_transaction_policy is not None and config.model_transaction_policy.decoupled
    if decoupled and _has_cache(config):
        found.append(
            f"Response Cache does not currently support model {name} with 'decoupled' transaction policy. "
            "Please disable the response cache."
        )
    if config.model_metrics is not None:
        found += _metrics_faults(config.model_metrics)
    refuse_all(found)


def config_warnings(config: ModelConfig) -> Iterator[str]:
    """What a valid configuration asks for in vain, one log line each."""
    if config.sequence_batching is not None and "TRITON_BATCH_STRATEGY_PATH" in config.parameters:
        yield "TRITON_BATCH_STRATEGY_PATH cannot be specified with sequence batcher, using default batching strategy"
    for control in config.model_metrics.metric_control if config.model_metrics is not None else ():
        family = control.metric_identifier.family if control.metric_identifier is not None else ""
        if family not in _CUSTOMISABLE_METRICS:
            yield f"Metric family '{family}' in 'metric_identifier' is not a customizable metric in Triton core."


def _has_cache(config: ModelConfig) -> bool:
    return config.response_cache is not None and config.response_cache.enable


def _validate_preferred_sizes(sizes: Sequence[int], config: ModelConfig, what: str) -> None:
    for size in sizes:
        if size <= 0:
            raise InvalidArgument(f"{what} must be positive for {config.name}")
        if size > config.max_batch_size:
            raise InvalidArgument(f"{what} must be <= max batch size for {config.name}")


def _dynamic_batching_faults(batching: ModelDynamicBatching, config: ModelConfig) -> Iterator[str]:
    name, levels = config.name, batching.priority_levels
    found: list[str] = []
    with collected(found):
        _validate_preferred_sizes(batching.preferred_batch_size, config, "dynamic batching preferred size")
    yield from found
    if levels != 0:
        if not 1 <= batching.default_priority_level <= levels:
            yield f"default priority level must be in range [1, {levels}] for {name}"
        if not all(1 <= level <= levels for level in batching.priority_queue_policy):
            yield f"priority queue policy must have priority level in range [1, {levels}] for {name}"
    if not batching.preserve_ordering:
        return
    if levels > 1:
        yield f"Only one priority level is allowed when 'preserve_ordering' is true for {name}"
    for policy in (batching.default_queue_policy, *batching.priority_queue_policy.values()):
        if (
            policy is not None
            and policy.default_timeout_microseconds != 0
            and policy.timeout_action == ModelQueuePolicyTimeoutAction.DELAY
        ):
            yield f"Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for {name}"
            return


def _sequence_batching_faults(batching: ModelSequenceBatching, config: ModelConfig) -> Iterator[str]:
    name = config.name
    if _has_cache(config):
        yield (
            f"Response Cache does not currently support model {name} with sequence batching scheduler. "
            "Please disable the response cache."
        )
    tensors: set[str] = set()
    kinds: set[ModelSequenceBatchingControlKind] = set()
    for tensor in batching.control_input:
        if not tensor.name:
            yield f"sequence batching control tensor must have a name for {name}"
        elif tensor.name in tensors:
            yield f"sequence batching control tensor '{tensor.name}' is specified for multiple control kinds for {name}"
        tensors.add(tensor.name)
        for control in tensor.control:
            if control.kind in kinds:
                yield f"sequence batching specifies multiple {enum_name(control.kind)} tensors for {name}"
            kinds.add(control.kind)
            yield from _control_faults(control, name)
    found: list[str] = []
    if batching.oldest is not None:
        with collected(found):
            _validate_preferred_sizes(
                batching.oldest.preferred_batch_size, config, "sequence batching preferred batch size"
            )
    yield from found
    if batching.direct is not None and not 0.0 <= batching.direct.minimum_slot_utilization <= 1.0:
        yield f"sequence batching minimum slot utilization must be in range (0.0, 1.0] for {name}"


def _control_faults(control: ModelSequenceBatchingControl, name: str) -> Iterator[str]:
    pairs: dict[str, Sequence[object]] = {
        "int32_false_true": control.int32_false_true,
        "fp32_false_true": control.fp32_false_true,
        "bool_false_true": control.bool_false_true,
    }
    given = [pair for pair, values in pairs.items() if values]
    either = "either 'int32_false_true', 'fp32_false_true' or 'bool_false_true'"
    suffix = f"for {enum_name(control.kind)} for {name}"
    if control.kind == ModelSequenceBatchingControlKind.CONTROL_SEQUENCE_CORRID:
        if given:
            yield f"sequence batching must not specify {either} {suffix}"
        if control.data_type not in _CORRELATION_TYPES:
            yield (
                f"unexpected data type for control CONTROL_SEQUENCE_CORRID for {name}. Allowed data types are "
                "TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
            )
    elif not given:
        yield f"sequence batching must specify {either} {suffix}"
    elif len(given) > 1:
        yield (
            "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
            f"'bool_false_true' {suffix}"
        )
    elif len(pairs[given[0]]) != 2:
        yield f"sequence batching control '{given[0]}' must have exactly 2 entries {suffix}"


def _metrics_faults(metrics: ModelMetrics) -> Iterator[str]:
    for control in metrics.metric_control:
        if control.metric_identifier is None:
            yield "metric control must specify 'metric_identifier'"
        elif not control.metric_identifier.family:
            yield "metric identifier must specify non-empty 'family'"
        if control.histogram_options is None:
            yield "metric control must specify 'histogram_options'"
        elif not control.histogram_options.buckets:
            yield "histogram options must specify non-empty 'buckets'"
