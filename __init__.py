"""Despina: an inference server and an embeddable inference engine that speaks Triton's protocol.

async with despina.open_engine("models/") as engine:
    result = await engine.infer("addsub", {"INPUT0": a, "INPUT1": b})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .schema.release import RELEASE

if TYPE_CHECKING:
    from .engine import blocking
    from .engine.engine import Engine
    from .engine.opening import open_engine
    from .engine.port.options import EngineOptions
    from .engine.port.settings import EngineSettings, LatencySettings, Restart, Stop, TraceSettings
    from .engine.request.call import Result
    from .schema.fault import (
        AlreadyExists,
        Cancelled,
        DeadlineExceeded,
        ExecutorDied,
        Fault,
        Internal,
        InvalidArgument,
        MalformedRequest,
        ModelFailure,
        NotFound,
        NotLoaded,
        NotReady,
        QueueFull,
        QueueTimeout,
        Restricted,
        ShuttingDown,
        Unavailable,
        Unknown,
        Unsupported,
    )
    from .schema.tensor import Tensor

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "DeadlineExceeded",
    "Engine",
    "EngineOptions",
    "EngineSettings",
    "ExecutorDied",
    "Fault",
    "Internal",
    "InvalidArgument",
    "LatencySettings",
    "MalformedRequest",
    "ModelFailure",
    "NotFound",
    "NotLoaded",
    "NotReady",
    "QueueFull",
    "QueueTimeout",
    "Restart",
    "Restricted",
    "Result",
    "ShuttingDown",
    "Stop",
    "Tensor",
    "TraceSettings",
    "Unavailable",
    "Unknown",
    "Unsupported",
    "blocking",
    "open_engine",
]

__version__ = RELEASE

_HOMES = {
    "Engine": ".engine.engine",
    "EngineOptions": ".engine.port.options",
    "EngineSettings": ".engine.port.settings",
    "LatencySettings": ".engine.port.settings",
    "Restart": ".engine.port.settings",
    "Result": ".engine.request.call",
    "Stop": ".engine.port.settings",
    "Tensor": ".schema.tensor",
    "TraceSettings": ".engine.port.settings",
    "open_engine": ".engine.opening",
}
"""Of what is no fault. Looked up when it is asked for: a model's own process needs little of this package."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "blocking":
        return importlib.import_module(".engine.blocking", __name__)
    value = getattr(importlib.import_module(_HOMES.get(name, ".schema.fault"), __name__), name)
    globals()[name] = value
    return value
