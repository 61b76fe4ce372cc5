"""`--trace-config` and the older trace options as one TraceSettings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import attrs

from ...engine.port.settings import LEVELS, TraceSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...engine.port.settings import TraceLevel

MODES: Final = ("triton", "opentelemetry")
_NUMBERS: Final = {"rate": "rate", "count": "count"}
_BATCHING: Final = {
    # As settings show them, in that order -> the variable that has the default, and the default's default.
    "bsp_max_export_batch_size": ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
    "bsp_schedule_delay": ("OTEL_BSP_SCHEDULE_DELAY", 5000),
    "bsp_max_queue_size": ("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
}
_URL: Final = "http://localhost:4318/v1/traces"


@attrs.frozen(kw_only=True)
class TraceOptions:
    """The trace options as given; None for those that were not."""

    config: Sequence[tuple[str, str, str]] = ()
    """What `trace_setting` made of each `--trace-config`."""
    file: str | None = None
    level: Sequence[str] = ()
    rate: int | None = None
    count: int | None = None
    log_frequency: int | None = None


def trace_setting(text: str) -> tuple[str, str, str]:
    """`[mode,]setting=value` as (mode or "", setting, value)."""
    head, equals, value = text.partition("=")
    mode, comma, setting = head.rpartition(",")
    if not (equals and setting and value) or (comma and not mode):
        raise ValueError(f"--trace-config option format is '<trace mode>,<setting>=<value>'. Got {text}")
    mode = mode.partition(",")[0].lower()
    if mode and mode not in MODES:
        raise ValueError(_bad_mode(mode))
    return mode, setting.lower(), value


def trace_settings(given: TraceOptions, complaints: list[str]) -> TraceSettings:
    """The settings for the options. What is wrong with them is added to `complaints`."""
    fields: dict[str, Any] = {
        name: value
        for name in ("file", "rate", "count", "log_frequency")
        if (value := getattr(given, name)) is not None
    }
    levels = list(given.level)
    options: dict[str, str] = {}
    resource: dict[str, str] = {}
    for mode, setting, value in given.config:
        try:
            if mode == "" and setting == "level":
                levels.append(value)
            elif mode == "" and setting == "mode":
                if value.lower() not in MODES:
                    raise ValueError(_bad_mode(value.lower()))
                fields["mode"] = value.lower()
            elif mode == "" and setting in _NUMBERS:
                fields[_NUMBERS[setting]] = _integer(value)
            elif mode == "triton" and setting == "file":
                fields["file"] = value
            elif mode == "triton" and setting == "log-frequency":
                fields["log_frequency"] = _integer(value)
            elif mode == "opentelemetry" and setting == "url":
                options["url"] = _url(value)
            elif mode == "opentelemetry" and setting == "resource":
                key, _, text = value.partition("=")
                if not key or not text:
                    raise ValueError(f"a resource is <key>=<value>, got {value}")
                resource[key] = text
            elif mode == "opentelemetry" and setting in _BATCHING:
                options[setting] = str(_positive(_integer(value), value))
            else:
                raise ValueError(f"unknown setting '{setting}'" + (f" of mode {mode}" if mode else ""))
        except ValueError as problem:
            complaints.append(f'Bad option: "--trace-config {setting}".\n{problem}')
    levels_found = _levels(levels, complaints)
    if fields.get("mode") == "opentelemetry":
        fields |= {"options": _shown(options, resource, complaints), "resource": resource}
    try:
        return TraceSettings(level=levels_found, **fields)
    except (TypeError, ValueError) as problem:
        complaints.append(f'Bad option: "--trace-config".\n{problem.args[0]}')
        return TraceSettings()


def _levels(names: Iterable[str], complaints: list[str]) -> tuple[TraceLevel, ...]:
    """OFF among others is no error here; it adds nothing."""
    found = []
    for name in names:
        if name.upper() in ("TIMESTAMPS", "TENSORS"):
            found.append(name.upper())
        elif name.upper() in ("MIN", "MAX"):  # what very old releases called it
            found.append("TIMESTAMPS")
        elif name.upper() != "OFF":
            complaints.append(f"invalid value for trace level option: {name.lower()}")
    return tuple(level for level in LEVELS if level in found)


def _shown(options: dict[str, str], resource: dict[str, str], complaints: list[str]) -> dict[str, str]:
    """Every option of OpenTelemetry mode, in the order in which settings show them."""
    shown = {"url": options.get("url", _URL)}
    if resource:
        shown["resource"] = ",".join(f"{key}={value}" for key, value in resource.items())
    for name, (variable, default) in _BATCHING.items():
        value = options.get(name) or os.environ.get(variable) or str(default)
        if not value.isdecimal() or int(value) < 1:
            complaints.append(f"{variable}: a positive number is expected, got {value}")
            value = str(default)
        shown[name] = value
    if int(shown["bsp_max_export_batch_size"]) > int(shown["bsp_max_queue_size"]):
        complaints.append("--trace-config: bsp_max_export_batch_size must not exceed bsp_max_queue_size")
    return shown


def _bad_mode(mode: str) -> str:
    return f'invalid value for trace mode option: {mode}. Available options are "triton" and "opentelemetry"'


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"Invalid option value. Got {text}") from None


def _positive(value: int, text: str) -> int:
    if value < 1:
        raise ValueError(f"must be greater than 0, got {text}")
    return value


def _url(text: str) -> str:
    """As given, since settings show it so; without a scheme it is http's."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"expected http://<host>:<port>/<path>, got {text}")
    return text
