"""The metrics door: the engine's counters as a Prometheus page on a port of its own."""

from .page import MetricsPage, serve_metrics
from .settings import MetricsSettings

__all__ = ["MetricsPage", "MetricsSettings", "serve_metrics"]
