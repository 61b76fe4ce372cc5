"""Despina: an inference server and an embeddable inference engine that speaks Triton's protocol.

async with despina.open_engine("models/") as engine:
    result = await engine.infer("addsub", {"INPUT0": a, "INPUT1": b})
"""

from .engine import blocking
from .engine.engine import Engine
from .engine.opening import open_engine
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
    "EngineSettings",
    "ExecutorDied",
    "Fault",
    "Internal",
    "InvalidArgument",
    "LatencySettings",
    "MalformedRequest",
    "ModelFailure",
    "NotFound",
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

__version__ = "0.1.0"
