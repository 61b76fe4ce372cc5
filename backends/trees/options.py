"""From model parameters to what is answered. The names are those of Triton's FIL backend, and two of ours."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, Literal

import attrs

from ...schema.fault import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from ...schema.wire.generated.inference import ModelConfig

_log = logging.getLogger("despina.backends.trees")

MODEL_TYPES: Final = ("xgboost", "xgboost_json", "xgboost_ubj", "lightgbm", "treelite_checkpoint", "scikit-learn")

WITHOUT_EFFECT: Final = (
    "algo",
    "blocks_per_sm",
    "chunk_size",
    "layout",
    "storage_type",
    "threads_per_tree",
    "transfer_threshold",
    "use_experimental_optimizations",
    "xgboost_allow_unknown_field",
)
"""They say how FIL computes, not what; the frameworks themselves compute here."""

THREADS_MAX: Final = 1024

Wanted = Literal["value", "class", "probabilities"]


@attrs.frozen(kw_only=True)
class Options:
    """Of one model."""

    model_type: str
    """"" where the files say it."""
    wanted: Wanted | None
    """None: a class of classifiers, the value of others."""
    threshold: float | None
    """What the positive class of two must be above; None for the framework's own choice."""
    threads: int
    """That one execution may use; 0 for as many as the framework likes."""
    trusted_types: tuple[str, ...]
    """What a skops file may make, beyond what skops trusts itself."""

    @classmethod
    def of(cls, config: ModelConfig) -> Options:
        """Raises InvalidArgument for values that cannot be, Unsupported for a type of model that is none."""
        model_type = _text(config, "model_type")
        if model_type and model_type not in MODEL_TYPES:
            raise Unsupported(
                f"{model_type} not recognized as a valid serialization format. (There are {', '.join(MODEL_TYPES)}.)"
            )
        ignored = [name for name in WITHOUT_EFFECT if name in config.parameters]
        if ignored:
            _log.info("model '%s': parameters without effect here: %s", config.name, ", ".join(ignored))
        return cls(
            model_type=model_type,
            wanted=_wanted(config),
            threshold=_threshold(config),
            threads=_threads(config),
            trusted_types=tuple(name.strip() for name in _text(config, "trusted_types").split(",") if name.strip()),
        )


def _wanted(config: ModelConfig) -> Wanted | None:
    if _switch(config, "predict_proba"):
        return "probabilities"
    chosen = _switch(config, "output_class")
    if chosen is None:
        chosen = _switch(config, "is_classifier")
    return None if chosen is None else "class" if chosen else "value"


def _threshold(config: ModelConfig) -> float | None:
    text = _text(config, "threshold")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _unfit(config, "threshold", "a number", text)
    return value


def _threads(config: ModelConfig) -> int:
    text = _text(config, "cpu_nthread")
    if not text:
        return 1
    if text == "-1":
        return 0
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= THREADS_MAX:
        raise _unfit(config, "cpu_nthread", f"a number up to {THREADS_MAX}, or -1 for all cores", text)
    return int(text)


def _text(config: ModelConfig, name: str) -> str:
    given = config.parameters.get(name)
    return "" if given is None else given.string_value


def _switch(config: ModelConfig, name: str) -> bool | None:
    text = _text(config, name).lower()
    if text in ("", "true", "false"):
        return text == "true" if text else None
    raise _unfit(config, name, "'true' or 'false'", text)


def _unfit(config: ModelConfig, name: str, expected: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"model '{config.name}': parameter {name} must be {expected}, got '{text}'")
