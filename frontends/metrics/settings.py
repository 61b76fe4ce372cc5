"""What an operator may set about the metrics page."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Options of the metrics page. Raises ValueError for a setting whose feature is not built."""

    interval_ms: float = attrs.field(default=2000.0, validator=attrs.validators.ge(0))
    """The machine is looked at again only after this long."""
    allow_cpu_metrics: bool = True
    config: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=tuple)
    """`(setting, value)` pairs. Only what is the default anyway is accepted for now."""

    @config.validator
    def _only_defaults(self, attribute: object, pairs: tuple[tuple[str, str], ...]) -> None:
        built = {"counter_latencies": "true", "histogram_latencies": "false", "summary_latencies": "false"}
        for setting, value in pairs:
            if setting not in (*built, "summary_quantiles"):
                raise ValueError(f"--metrics-config: unknown setting '{setting}'; known: {', '.join(built)}")
            if setting == "summary_quantiles":
                raise ValueError("--metrics-config: summary_quantiles is not built yet; leave it out")
            if value.lower() != built[setting]:
                raise ValueError(f"--metrics-config: {setting}={value} is not built yet; leave it out")
