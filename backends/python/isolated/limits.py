"""What a model's process may take, and whether somebody looks into it: then there are no limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from ....schema.fault import InvalidArgument

if TYPE_CHECKING:
    from ....engine.port.backend import ModelContext

START_SETTING: Final = "stub-timeout-seconds"
START_S_MAX: Final = 30.0
DEBUG_SETTING: Final = "debug-model"


@attrs.frozen(kw_only=True)
class Limits:
    """What a model's process may take, by the model's parameters; 0 for as much as it likes."""

    memory_bytes: int
    execution_s: float
    start_s: float
    """Until the process is there."""
    open_s: float
    """Until its model is initialized, too."""

    @classmethod
    def of(cls, context: ModelContext) -> Limits:
        """Raises InvalidArgument for what is no number."""
        start_s = positive_number(context.name, START_SETTING, context.backend_config.get(START_SETTING, ""))
        if is_debugged(context):
            return cls(memory_bytes=0, execution_s=0.0, start_s=0.0, open_s=0.0)
        return cls(
            memory_bytes=int(_parameter(context, "DESPINA_MEMORY_BYTES_MAX")),
            execution_s=_parameter(context, "DESPINA_EXECUTION_SECONDS_MAX"),
            start_s=start_s or START_S_MAX,
            open_s=_parameter(context, "DESPINA_START_SECONDS_MAX"),
        )


def is_debugged(context: ModelContext) -> bool:
    """Whether it is the model that somebody looks into at the server's terminal."""
    return context.backend_config.get(DEBUG_SETTING) == context.name


def _parameter(context: ModelContext, name: str) -> float:
    given = context.config.parameters.get(name)
    return positive_number(context.name, f"parameter {name}", "" if given is None else given.string_value)


def positive_number(model: str, what: str, text: str) -> float:
    """0 for no text. Raises InvalidArgument for what is no positive number."""
    if not text:
        return 0.0
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise InvalidArgument(f"unable to load model '{model}': {what} must be a positive number, got '{text}'")
    return number
