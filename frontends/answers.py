"""The engine's messages as the JSON of the protocol's HTTP answers: compact, members in the protocol's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ..schema.text import encodable
from ..schema.wire.generated.inference import StatisticDuration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.port.caller import Health
    from ..schema.wire.generated.inference import (
        ModelMetadataResponse,
        ModelStatistics,
        RepositoryIndexResponseModelIndex,
        ServerMetadataResponse,
    )

INFERENCE_STATS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
RESPONSE_STATS = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")
BATCH_STATS = ("compute_input", "compute_infer", "compute_output")


def server_metadata(message: ServerMetadataResponse) -> bytes:
    return orjson.dumps({"name": message.name, "version": message.version, "extensions": message.extensions})


def liveness(is_live: bool) -> bytes:
    """Ours: what the protocol says by a status only."""
    return orjson.dumps({"live": is_live})


def readiness(health: Health) -> bytes:
    """Ours: what the protocol says by a status only, and which parts are not ready."""
    return orjson.dumps({"ready": health.ready, "not_ready": [encodable(problem) for problem in health.problems]})


def model_metadata(message: ModelMetadataResponse) -> bytes:
    return orjson.dumps(
        {
            "name": message.name,
            "versions": message.versions,
            "platform": message.platform,
            "inputs": [_tensor(tensor) for tensor in message.inputs],
            "outputs": [_tensor(tensor) for tensor in message.outputs],
        }
    )


def statistics(messages: Sequence[ModelStatistics]) -> bytes:
    return orjson.dumps({"model_stats": [_statistics(message) for message in messages]})


def repository_index(messages: Sequence[RepositoryIndexResponseModelIndex]) -> bytes:
    """Empty members are left out: a model that was never loaded has a name only."""
    return orjson.dumps(
        [
            {
                member: value
                for member in ("name", "version", "state", "reason")
                if (value := getattr(message, member)) or member == "name"
            }
            for message in messages
        ]
    )


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _statistics(message: ModelStatistics) -> dict[str, Any]:
    return {
        "name": message.name,
        "version": message.version,
        "last_inference": message.last_inference,
        "inference_count": message.inference_count,
        "execution_count": message.execution_count,
        "inference_stats": _durations(message.inference_stats, INFERENCE_STATS),
        "response_stats": {key: _durations(item, RESPONSE_STATS) for key, item in message.response_stats.items()},
        "batch_stats": [
            {"batch_size": item.batch_size} | _durations(item, BATCH_STATS) for item in message.batch_stats
        ],
        "memory_usage": [
            {"type": item.type, "id": item.id, "byte_size": item.byte_size} for item in message.memory_usage
        ],
    }


_NO_TIME = StatisticDuration()


def _durations(message: Any, members: Sequence[str]) -> dict[str, dict[str, int]]:
    """All members, whether set or not: clients read them without asking."""
    written = {}
    for member in members:
        duration = getattr(message, member, None) or _NO_TIME
        written[member] = {"count": duration.count, "ns": duration.ns}
    return written
