"""What an operator may set about the metrics page."""

from __future__ import annotations

import re
from typing import Final

import attrs

from ...engine.port.settings import LatencySettings

QUANTILES: Final = "0.5:0.05,0.9:0.01,0.95:0.001,0.99:0.001,0.999:0.001"
_NUMBER: Final = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SWITCHES: Final = {"counter_latencies": True, "histogram_latencies": False, "summary_latencies": False}


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Options of the metrics page. Raises ValueError for a setting that is not known or cannot be."""

    interval_ms: float = attrs.field(default=2000.0, validator=attrs.validators.ge(0))
    """The machine is looked at again only after this long."""
    allow_cpu_metrics: bool = True
    allow_gpu_metrics: bool = True
    config: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=tuple)
    """`(setting, value)` pairs of `--metrics-config`. The last of several counts."""

    @config.validator
    def _known(self, attribute: object, pairs: tuple[tuple[str, str], ...]) -> None:
        for setting, value in pairs:
            if setting == "summary_quantiles":
                read_quantiles(value)
            elif setting not in _SWITCHES:
                known = ", ".join([*_SWITCHES, "summary_quantiles"])
                raise ValueError(f"--metrics-config: unknown setting '{setting}'; known: {known}")
            elif value.lower() not in ("true", "false", "1", "0", "on", "off"):
                raise ValueError(f"--metrics-config: {setting} is true or false, got '{value}'")

    def _switch(self, name: str) -> bool:
        value = dict(self.config).get(name)
        return _SWITCHES[name] if value is None else value.lower() in ("true", "1", "on")

    @property
    def counter_latencies(self) -> bool:
        """Whether the five families of cumulative durations are shown."""
        return self._switch("counter_latencies")

    @property
    def _quantiles_text(self) -> str:
        return dict(self.config).get("summary_quantiles", QUANTILES)

    def warnings(self) -> list[str]:
        """What is taken, but probably not as it was meant."""
        return read_quantiles(self._quantiles_text)[1]

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Of latency summaries. The errors given with them are upper bounds, which ours stay below."""
        return read_quantiles(self._quantiles_text)[0]

    def latencies(self) -> LatencySettings:
        """What the engine must keep for the page."""
        return LatencySettings(
            summaries=self._switch("summary_latencies"), histograms=self._switch("histogram_latencies")
        )


def read_quantiles(text: str) -> tuple[tuple[float, ...], list[str]]:
    """`0.5:0.05,0.9:0.01` as (0.5, 0.9), and what to warn of: as in C, a number ends where it stops being one.

    Raises ValueError for a quantile that is none.
    """
    found = []
    warnings = []
    for part in text.split(","):
        quantile, _, error = part.partition(":")
        value = _number(quantile)
        if not (text and 0 <= value <= 1):
            raise ValueError(
                f"--metrics-config: summary_quantiles is <quantile>:<error>,... with numbers from 0 to 1, got '{part}'"
            )
        if not (_is_number(quantile) and _is_number(error or "0")):
            warnings.append(f"--metrics-config: summary_quantiles: '{part}' is read as {value:g}:{_number(error):g}")
        found.append(value)
    return tuple(found), warnings


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _number(text: str) -> float:
    begun = _NUMBER.match(text)
    return float(begun[0]) if begun else 0.0
