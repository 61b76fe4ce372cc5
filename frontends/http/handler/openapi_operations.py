"""What each operation of the HTTP API is for, what it takes and what it answers: the part of the OpenAPI document that
the table of routes does not know. Faults that every operation can have are not repeated here (openapi.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from ..request.request import BINARY, JSON, TEXT
from .generate import EVENTS
from .openapi_schemas import STRING, Schema, ref

if TYPE_CHECKING:
    from collections.abc import Mapping

LENGTH_HEADER: Final = "Inference-Header-Content-Length"


@attrs.frozen
class Operation:
    """One method of one route. Routes with optional parts have it once, as their shortest path."""

    name: str
    summary: str
    answer: Mapping[str, Schema]
    """Content type -> schema of the body of status 200. Empty for no body."""
    description: str = ""
    body: Mapping[str, Schema] = attrs.field(factory=dict)
    """The same of the request. Empty for none."""
    body_required: bool = False
    parameters: tuple[Schema, ...] = ()
    """Besides those of the path."""
    answer_headers: Schema = attrs.field(factory=dict)
    statuses: tuple[int, ...] = ()
    """Of the faults that it can have besides the common ones, and 404 where the path has parameters."""
    failure: Mapping[str, Schema] = attrs.field(factory=dict)
    """Content types that status 400 can have besides the common ones, with their schemas."""
    succeeds: bool = True
    """False where the path can only be refused."""


def _json(name: str) -> dict[str, Schema]:
    return {JSON.decode(): ref(name)}


_EMPTY: Final[dict[str, Schema]] = {}
_ONLY_ONE: Final = "A model without a version in the path is asked in its latest version."
_HEADER_LENGTH: Final[Schema] = {
    "name": LENGTH_HEADER,
    "in": "header",
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
    "description": "Bytes of the JSON. Behind it follow the binary tensors, in the order of the inputs. Absent: all "
    "of the body is JSON.",
}
_CODINGS: Final[tuple[Schema, ...]] = (
    {
        "name": "Content-Encoding",
        "in": "header",
        "schema": {"type": "string", "enum": ["gzip", "deflate", "identity", ""]},
        "description": "How the body is compressed. Empty is as good as absent.",
    },
    {
        "name": "Accept-Encoding",
        "in": "header",
        "schema": STRING,
        "description": "gzip or deflate compresses the answer.",
    },
)
_BINARY_BODY: Final[Schema] = {
    "type": "string",
    "format": "binary",
    "description": f"JSON of {LENGTH_HEADER} bytes, then the binary tensors one behind the other, little-endian.",
}
_EVENTS: Final = {EVENTS.decode(): ref("GenerateEvent")}
_GENERATE_BODY: Final = _json("GenerateRequest")

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("GET", "/v2/health/live"): Operation("live", "Is the server up?", _EMPTY),
    ("GET", "/v2/health/ready"): Operation("ready", "Does the server serve?", _EMPTY),
    ("GET", "/v2"): Operation("server_metadata", "The server and the extensions that it has", _json("ServerMetadata")),
    ("GET", "/v2/models/stats"): Operation("all_statistics", "Statistics of every model", _json("Statistics")),
    ("GET", "/v2/models/{model}"): Operation("model_metadata", "A model's inputs and outputs", _json("ModelMetadata")),
    ("GET", "/v2/models/{model}/ready"): Operation(
        "model_ready", "Does the model serve?", _EMPTY, "400 says that it does not."
    ),
    ("GET", "/v2/models/{model}/config"): Operation(
        "model_config", "A model's configuration", _json("ModelConfig"), _ONLY_ONE
    ),
    ("GET", "/v2/models/{model}/stats"): Operation(
        "model_statistics", "Statistics of a model", _json("Statistics"), "Of all its versions, if none is named."
    ),
    ("POST", "/v2/models/{model}/infer"): Operation(
        "infer",
        "Run a model",
        {**_json("InferResponse"), BINARY.decode(): _BINARY_BODY},
        "Tensors are JSON, or bytes behind the JSON, in both directions and each by its own choice. " + _ONLY_ONE,
        body={**_json("InferRequest"), BINARY.decode(): _BINARY_BODY},
        body_required=True,
        parameters=(_HEADER_LENGTH, *_CODINGS),
        answer_headers={
            LENGTH_HEADER: {
                "schema": {"type": "string", "pattern": "^[0-9]+$"},
                "description": "Bytes of the JSON, where binary tensors follow it.",
            }
        },
        statuses=(500, 501, 504),
    ),
    ("POST", "/v2/models/{model}/generate"): Operation(
        "generate",
        "Run a model that gives one answer, in flat JSON",
        _json("GenerateResponse"),
        _ONLY_ONE,
        body=_GENERATE_BODY,
        body_required=True,
        statuses=(500, 501),
    ),
    ("POST", "/v2/models/{model}/generate_stream"): Operation(
        "generate_stream",
        "Run a model that gives any number of answers, in flat JSON",
        _EVENTS,
        "One event for each answer, as it comes. The first decides the status. " + _ONLY_ONE,
        body=_GENERATE_BODY,
        body_required=True,
        failure=_EVENTS,
        statuses=(500, 501),
    ),
    ("POST", "/v2/repository/index"): Operation(
        "repository_index",
        "Models that there are, loaded or not",
        _json("RepositoryIndex"),
        body=_json("IndexRequest"),
        statuses=(500,),
    ),
    ("POST", "/v2/repository/models/{model}/load"): Operation(
        "load",
        "Load a model, or load it again",
        _EMPTY,
        "Answers when it serves, or cannot. A repository cannot be named.",
        body=_json("LoadRequest"),
        statuses=(500, 501),
    ),
    ("POST", "/v2/repository/models/{model}/unload"): Operation(
        "unload",
        "Unload a model",
        _EMPTY,
        "Answers when it is under way. A repository cannot be named.",
        body=_json("UnloadRequest"),
        statuses=(500, 501),
    ),
    ("GET", "/v2/logging"): Operation("log_settings", "What is logged", _json("LogSettings")),
    ("POST", "/v2/logging"): Operation(
        "change_log_settings",
        "Change what is logged",
        _json("LogSettings"),
        "Earlier members stick when a later one is refused.",
        body=_json("LogSettingsChange"),
        body_required=True,
        statuses=(500, 501),
    ),
    ("GET", "/v2/trace/setting"): Operation(
        "trace_settings", "What is traced", _json("TraceSettings"), "Of one model, or of those without their own."
    ),
    ("POST", "/v2/trace/setting"): Operation(
        "change_trace_settings",
        "Change what is traced",
        _json("TraceSettings"),
        body=_json("TraceSettingsChange"),
        body_required=True,
        statuses=(500, 501),
    ),
    ("GET", "/v2/systemsharedmemory/status"): Operation(
        "system_memory", "Registered regions of shared memory", _json("SystemRegions"), statuses=(501,)
    ),
    ("POST", "/v2/systemsharedmemory/register"): Operation(
        "register_system_memory",
        "Register a region of shared memory",
        _EMPTY,
        "The region must be named in the path.",
        body=_json("SystemRegion"),
        body_required=True,
        statuses=(500, 501),
        succeeds=False,
    ),
    ("POST", "/v2/systemsharedmemory/unregister"): Operation(
        "unregister_system_memory", "Forget one region, or all", _EMPTY, statuses=(501,)
    ),
    ("GET", "/v2/cudasharedmemory/status"): Operation(
        "cuda_memory", "Registered regions of GPU memory", _json("CudaRegions"), statuses=(501,)
    ),
    ("POST", "/v2/cudasharedmemory/register"): Operation(
        "register_cuda_memory",
        "Register a region of GPU memory",
        _EMPTY,
        "The region must be named in the path.",
        body=_json("CudaRegion"),
        body_required=True,
        statuses=(500, 501),
        succeeds=False,
    ),
    ("POST", "/v2/cudasharedmemory/unregister"): Operation(
        "unregister_cuda_memory", "Forget one region, or all", _EMPTY, statuses=(501,)
    ),
    ("GET", "/openapi.json"): Operation("openapi", "This document", {JSON.decode(): {"type": "object"}}),
    ("GET", "/docs"): Operation("docs", "This document as a page", {"text/html; charset=utf-8": STRING}),
}


def contents(schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """A `content` object of OpenAPI."""
    return {kind: {"schema": schema} for kind, schema in schemas.items()}


ERROR_TYPES: Final = contents(
    {
        JSON.decode(): ref("Error"),
        TEXT.decode(): {**STRING, "contentMediaType": JSON.decode(), "contentSchema": ref("Error")},
    }
)
"""Which of both comes is the protocol's choice; the body is JSON either way."""
