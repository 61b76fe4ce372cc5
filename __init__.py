"""Despina: an inference server and an embeddable inference engine that speaks Triton's protocol.

async with despina.open_engine("models/") as engine:
    result = await engine.infer("addsub", {"INPUT0": a, "INPUT1": b})
"""

from .engine import blocking
from .engine.engine import Engine, open_engine
from .engine.port.settings import EngineSettings
from .engine.request.call import Result
from .schema.fault import Fault
from .schema.tensor import Tensor

__all__ = ["Engine", "EngineSettings", "Fault", "Result", "Tensor", "blocking", "open_engine"]

__version__ = "0.1.0"
