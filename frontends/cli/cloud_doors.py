"""How SageMaker's and Vertex AI's doors are opened. What stays closed is not imported."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    import trio

    from ...engine.engine import Engine
    from ..access_log import AccessLog
    from ..http.cloud.vertex_ai import Page
    from .settings import ServeSettings

Starter = tuple[str, Any]
"""What the log calls the service, and its serve function."""


def cloud_starters(
    engine: Engine, settings: ServeSettings, doors: Collection[str], access_log: AccessLog | None = None
) -> dict[str, Starter]:
    """Of those that shall be open, by service."""
    starters: dict[str, Starter] = {}
    if "SageMaker" in doors:
        from ..http.cloud.sagemaker import serve_sagemaker

        serve = partial(serve_sagemaker, engine, settings.http, settings.sagemaker, access_log=access_log)
        starters["SageMaker"] = ("Sagemaker HTTPService", serve)
    if "Vertex AI" in doors:
        from ..http.cloud.vertex_ai import serve_vertex_ai

        serve = partial(serve_vertex_ai, engine, settings.http, settings.vertex_ai, access_log=access_log)
        if settings.doors.allow_metrics:
            serve = partial(serve, open_metrics=partial(_open_metrics, engine, settings))
        starters["Vertex AI"] = ("Vertex AI HTTPService", serve)
    return starters


def _open_metrics(engine: Engine, settings: ServeSettings, nursery: trio.Nursery) -> Page:
    from ..metrics.page import MetricsPage

    return MetricsPage(engine, settings.metrics, nursery).answer
