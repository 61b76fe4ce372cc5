"""From model parameters to what OpenVINO is asked for. Parameters of other readers pass unread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from ...schema.wire.generated.inference import ModelConfig

THREADS_MAX = 1024
"""Of one model. Ours: OpenVINO starts as many as it is told."""


@attrs.frozen(kw_only=True)
class Options:
    """Of one model."""

    device: str
    keeps_batch_fixed: bool
    """Every execution has `max_batch_size` rows."""
    pads: bool
    """Where the batch is fixed: smaller ones get rows of zeros, else they are refused."""
    reshapes: bool
    """The model's inputs take the configuration's dims, whatever the file says."""
    cpu_extension: str
    properties: dict[str, str]
    """For the compilation."""

    @classmethod
    def of(cls, config: ModelConfig) -> Options:
        """Raises InvalidArgument for values that cannot be."""
        properties: dict[str, str] = {}
        for name in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"):
            if text := _text(config, name):
                properties[name] = _count(name, text, "a non-negative number")
        if text := _text(config, "NUM_STREAMS"):
            is_word = text.upper() in ("AUTO", "NUMA")
            properties["NUM_STREAMS"] = (
                text.upper() if is_word else _count("NUM_STREAMS", text, "a non-negative number or AUTO/NUMA")
            )
        if text := _text(config, "PERFORMANCE_HINT"):
            if text.upper() not in ("LATENCY", "THROUGHPUT"):
                raise _unfit("PERFORMANCE_HINT", "LATENCY or THROUGHPUT", text)
            properties["PERFORMANCE_HINT"] = text.upper()
        if _text(config, "HINT_BF16"):
            # Unsaid, OpenVINO takes what the processor is fast at.
            properties["INFERENCE_PRECISION_HINT"] = "bf16" if _switch(config, "HINT_BF16") else "f32"
        return cls(
            device=_text(config, "TARGET_DEVICE") or "CPU",
            keeps_batch_fixed=_switch(config, "SKIP_OV_DYNAMIC_BATCHSIZE"),
            pads=_switch(config, "ENABLE_BATCH_PADDING"),
            reshapes=_switch(config, "RESHAPE_IO_LAYERS"),
            cpu_extension=_text(config, "CPU_EXTENSION_PATH"),
            properties=properties,
        )


def _text(config: ModelConfig, name: str) -> str:
    given = config.parameters.get(name)
    return "" if given is None else given.string_value


def _switch(config: ModelConfig, name: str) -> bool:
    text = _text(config, name)
    if text.upper() not in ("", "YES", "NO"):
        raise _unfit(name, "either YES or NO", text)
    return text.upper() == "YES"


def _count(name: str, text: str, expected: str) -> str:
    if not text.isascii() or not text.isdigit():
        raise _unfit(name, expected, text)
    if int(text) > THREADS_MAX:
        raise _unfit(name, f"at most {THREADS_MAX}", text)
    return str(int(text))


def _unfit(name: str, expected: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"expected the parameter '{name}' to be {expected}, got {text}")
