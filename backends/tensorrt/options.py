"""From backend settings and model parameters to what TensorRT is asked for. Wrong values are InvalidArgument."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ...schema.fault import InvalidArgument
from ...schema.wire.generated.inference import ModelOptimizationPolicyModelPriority as Priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...schema.wire.generated.inference import ModelConfig

STRATEGY = "execution_context_allocation_strategy"
_STRATEGIES = ("STATIC", "ON_PROFILE_CHANGE")
_POLICIES = ("DEVICE_BLOCKING", "BLOCKING")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}

SETTINGS = {
    "plugins": "",
    "version-compatible": "",
    "execution-policy": "each instance has a thread of its own",
    "coalesce-request-input": "the inputs of a batch are always copied together",
}
"""The backend's settings -> why one has no effect."""


@attrs.frozen(kw_only=True)
class Options:
    """Of one model."""

    strategy: str
    """How much device memory an execution context gets, and when: a member of ExecutionContextAllocationStrategy."""
    plugins: tuple[str, ...]
    """Libraries to load before the plan."""
    version_compatible: bool
    """Plans may bring code for the host, of a library of another release."""
    priority: int
    """Of streams: below 0 before others, above 0 behind them."""
    spins: bool
    copies_apart: bool
    """Outputs are copied on a stream of their own."""
    prepares: bool
    """The next batch is on its way while one executes."""
    pinned_inputs: bool
    pinned_outputs: bool

    @classmethod
    def of(cls, config: ModelConfig, settings: Mapping[str, str]) -> Options:
        given = config.parameters.get(STRATEGY)
        strategy = given.string_value if given is not None and given.string_value else "STATIC"
        if strategy not in _STRATEGIES:
            raise InvalidArgument(
                f"unable to load model '{config.name}': expected one of {', '.join(_STRATEGIES)} for parameter "
                f"{STRATEGY}, got '{strategy}'"
            )
        policy = settings.get("execution-policy", "")
        if policy and policy not in _POLICIES:
            raise InvalidArgument(
                f"backend setting execution-policy of tensorrt must be {' or '.join(_POLICIES)}, got '{policy}'"
            )
        _switch("coalesce-request-input", settings)
        optimization = config.optimization
        cuda = optimization.cuda if optimization is not None else None
        urgency = optimization.priority if optimization is not None else Priority.PRIORITY_DEFAULT
        inputs = optimization.input_pinned_memory if optimization is not None else None
        outputs = optimization.output_pinned_memory if optimization is not None else None
        return cls(
            strategy=strategy,
            plugins=tuple(path for path in settings.get("plugins", "").split(";") if path),
            version_compatible=_switch("version-compatible", settings),
            priority={Priority.PRIORITY_MAX: -1, Priority.PRIORITY_MIN: 1}.get(urgency, 0),
            spins=cuda is not None and cuda.busy_wait_events,
            copies_apart=cuda is not None and cuda.output_copy_stream,
            prepares=optimization is not None and optimization.eager_batching,
            pinned_inputs=inputs is None or inputs.enable,
            pinned_outputs=outputs is None or outputs.enable,
        )


def _switch(name: str, settings: Mapping[str, str]) -> bool:
    text = settings.get(name, "")
    if not text:
        return False
    found = _TRUTH.get(text.lower())
    if found is None:
        raise InvalidArgument(f"backend setting {name} of tensorrt must be 'true' or 'false', got '{text}'")
    return found
