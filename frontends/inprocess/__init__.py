"""The shape of Triton's in-process Python package over `despina.blocking`.

Programs written for that package run by changing the import: `import despina.frontends.inprocess as tritonserver`.
"""

from .errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    TritonError,
    UnavailableError,
    UnknownError,
    UnsupportedError,
)
from .model import Model
from .options import LogFormat, ModelControlMode, Options, RateLimiterMode
from .request import InferenceRequest, InferenceResponse
from .responses import AsyncResponseIterator, ResponseIterator
from .server import Server
from .tensor import DataType, MemoryType, Tensor

__all__ = [
    "AlreadyExistsError",
    "AsyncResponseIterator",
    "DataType",
    "InferenceRequest",
    "InferenceResponse",
    "InternalError",
    "InvalidArgumentError",
    "LogFormat",
    "MemoryType",
    "Model",
    "ModelControlMode",
    "NotFoundError",
    "Options",
    "RateLimiterMode",
    "ResponseIterator",
    "Server",
    "Tensor",
    "TritonError",
    "UnavailableError",
    "UnknownError",
    "UnsupportedError",
]
