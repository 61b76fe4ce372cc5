"""JSON schemas of the bodies, by the names that the OpenAPI document refers to them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ....schema.datatype import BY_NAME
from ....schema.message_type import enum_names, fields_of
from ....schema.scalar import FLOATS
from ....schema.wire.generated.inference import ModelConfig
from ...answers import BATCH_STATS, INFERENCE_STATS, RESPONSE_STATS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import betterproto2

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
DIMENSION: Final[Schema] = {"type": "integer", "minimum": -1, "description": "-1 for any length."}

_EXAMPLE: Final[Schema] = {
    "inputs": [
        {"name": name, "datatype": "INT32", "shape": [1, 16], "data": list(range(16))} for name in ("INPUT0", "INPUT1")
    ]
}
"""What the example model `addsub` takes,"""
_FLAT_EXAMPLE: Final[Schema] = {name: list(range(16)) for name in ("INPUT0", "INPUT1")}
"""and the same for generate."""


def ref(name: str) -> Schema:
    """Stands for the schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def record(properties: Schema, required: Iterable[str] = (), description: str = "") -> Schema:
    """An object. Members that are not listed are ignored by the server."""
    schema: Schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"description": description} | schema if description else schema


def schemas() -> Schema:
    """All of them, by name."""
    return _inference() | _management() | _statistics() | _config(ModelConfig, {})


def _inference() -> Schema:
    shared = {
        "shared_memory_region": {**STRING, "description": "The tensor lies in this registered region."},
        "shared_memory_offset": COUNT,
        "shared_memory_byte_size": COUNT,
    }
    tensor = {"name": STRING, "datatype": ref("Datatype"), "shape": array({"type": "integer", "minimum": 0})}
    binary = {**COUNT, "description": "So many bytes behind the JSON are the tensor."}
    return {
        "Error": record({"error": STRING}, ["error"]),
        "Datatype": {"type": "string", "enum": list(BY_NAME)},
        "Parameter": {"type": ["string", "integer", "number", "boolean"]},
        "TensorData": array(
            {}, description="The elements in row-major order, flat or nested as the shape is; absent for other places."
        ),
        "InferInput": record(
            {**tensor, "parameters": record({"binary_data_size": binary, **shared}), "data": ref("TensorData")},
            ["name", "datatype", "shape"],
        ),
        "InferRequestedOutput": record(
            {
                "name": STRING,
                "parameters": record(
                    {
                        "binary_data": {**BOOLEAN, "description": "Whether it comes behind the JSON."},
                        "classification": {**COUNT, "description": "Tell so many of the best classes instead."},
                        **shared,
                    }
                ),
            },
            ["name"],
        ),
        "InferRequest": record(
            {
                "id": {**STRING, "description": "Comes back with the answer."},
                "parameters": {
                    **record(
                        {
                            "sequence_id": {"type": ["integer", "string"]},
                            "sequence_start": BOOLEAN,
                            "sequence_end": BOOLEAN,
                            "priority": COUNT,
                            "timeout": {**COUNT, "description": "Microseconds that it may wait in the queue."},
                            "binary_data_output": {**BOOLEAN, "description": "For outputs that do not say."},
                        }
                    ),
                    "additionalProperties": ref("Parameter"),
                },
                "inputs": array(ref("InferInput")),
                "outputs": array(ref("InferRequestedOutput"), description="None means all."),
            },
            ["inputs"],
        )
        | {"examples": [_EXAMPLE]},
        "InferResponse": record(
            {
                "id": STRING,
                "model_name": STRING,
                "model_version": STRING,
                "parameters": {"type": "object", "additionalProperties": ref("Parameter")},
                "outputs": array(
                    record(
                        {**tensor, "parameters": {"type": "object"}, "data": ref("TensorData")},
                        ["name", "datatype", "shape"],
                    )
                ),
            },
            ["model_name", "model_version", "outputs"],
        ),
        "GenerateRequest": {
            "type": "object",
            "description": "Members named as inputs are these inputs, all others are parameters.",
            "properties": {"id": STRING, "parameters": {"type": "object"}},
            "examples": [_FLAT_EXAMPLE],
        },
        "GenerateEvent": record(
            {
                "data": {
                    **STRING,
                    "contentMediaType": "application/json",
                    "contentSchema": {"anyOf": [ref("GenerateResponse"), ref("Error")]},
                }
            },
            ["data"],
            "One of the stream's events; `data` is the JSON of a GenerateResponse or an Error.",
        ),
        "GenerateResponse": record(
            {"id": STRING, "model_name": STRING, "model_version": STRING},
            ["model_name", "model_version"],
            "Each output is a member: its element if it has one, else their list.",
        ),
    }


def _management() -> Schema:
    described = record(
        {"name": STRING, "datatype": STRING, "shape": array(DIMENSION)},
        ["name", "datatype", "shape"],
    )
    names = ("log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format")
    kinds = (STRING, BOOLEAN, BOOLEAN, BOOLEAN, COUNT, STRING)
    logging = dict(zip(names, kinds, strict=True))
    number = {"type": "string", "pattern": "^-?[0-9]+$"}
    trace = {"trace_rate": number, "trace_count": number, "log_frequency": number}
    changed = {"type": ["string", "null"], "description": "A whole number. What follows its digits is ignored."}
    levels = array(STRING)
    region = {"name": STRING, "byte_size": COUNT}
    return {
        "ServerMetadata": record(
            {"name": STRING, "version": STRING, "extensions": array(STRING)}, ["name", "version", "extensions"]
        ),
        "ModelMetadata": record(
            {
                "name": STRING,
                "versions": array(STRING),
                "platform": STRING,
                "inputs": array(described),
                "outputs": array(described),
            },
            ["name", "versions", "platform", "inputs", "outputs"],
        ),
        "IndexRequest": record({"ready": {**BOOLEAN, "description": "Only models that serve."}}),
        "RepositoryIndex": array(
            record({"name": STRING, "version": STRING, "state": STRING, "reason": STRING}, ["name"])
        ),
        "LoadRequest": record(
            {
                "parameters": {
                    "type": "object",
                    "description": "`config` replaces the configuration; each `file:<path>` is a file's content.",
                    "properties": {"config": {**STRING, "description": "JSON of a ModelConfig."}},
                    "patternProperties": {"^file:": {**STRING, "contentEncoding": "base64"}},
                    "additionalProperties": False,
                }
            }
        ),
        "UnloadRequest": record(
            {
                "parameters": record(
                    {"unload_dependents": {"description": "`true` unloads its ensembles too; all else is false."}}
                )
            }
        ),
        "LogSettings": record(logging, names),
        "LogSettingsChange": record(
            {name: {**kind, "type": [kind["type"], "null"]} for name, kind in logging.items()},
            description="Null and absent members stay as they are. The file cannot be changed.",
        ),
        "TraceSettings": record(
            {"trace_level": levels, **trace, "trace_file": STRING, "trace_mode": STRING},
            ["trace_level", "trace_rate", "trace_count", "trace_mode"],
        ),
        "TraceSettingsChange": {
            "description": "Null takes a setting back to what it follows. What is no object changes nothing.",
            "properties": {"trace_level": {**levels, "type": ["array", "null"]}, **dict.fromkeys(trace, changed)},
        },
        "SystemRegions": array(
            record({**region, "key": STRING, "offset": COUNT}, ["name", "key", "offset", "byte_size"])
        ),
        "SystemRegion": record({"key": STRING, "offset": COUNT, "byte_size": COUNT}, ["key", "byte_size"]),
        "CudaRegions": array(record({**region, "device_id": COUNT}, ["name", "device_id", "byte_size"])),
        "CudaRegion": record(
            {
                "raw_handle": record({"b64": {**STRING, "contentEncoding": "base64"}}, ["b64"]),
                "device_id": COUNT,
                "byte_size": COUNT,
            },
            ["raw_handle", "device_id", "byte_size"],
        ),
    }


def _statistics() -> Schema:
    duration = ref("StatisticDuration")

    def durations(names: Iterable[str]) -> Schema:
        return record(dict.fromkeys(names, duration), names)

    batch = durations(BATCH_STATS)
    memory = {"type": STRING, "id": {"type": "integer"}, "byte_size": COUNT}
    model = {
        "name": STRING,
        "version": STRING,
        "last_inference": {**COUNT, "description": "Milliseconds since 1970."},
        "inference_count": COUNT,
        "execution_count": COUNT,
        "inference_stats": durations(INFERENCE_STATS),
        "response_stats": {"type": "object", "additionalProperties": durations(RESPONSE_STATS)},
        "batch_stats": array(
            {
                **batch,
                "properties": {"batch_size": COUNT, **batch["properties"]},
                "required": ["batch_size", *batch["required"]],
            }
        ),
        "memory_usage": array(record(memory, memory)),
    }
    return {
        "StatisticDuration": record({"count": COUNT, "ns": COUNT}, ["count", "ns"]),
        "ModelStatistics": record(model, model),
        "Statistics": record({"model_stats": array(ref("ModelStatistics"))}, ["model_stats"]),
    }


def _config(message: type[betterproto2.Message], found: Schema) -> Schema:
    """The schema of a message's JSON form and of every message in it, added to `found`."""
    if message.__name__ in found:
        return found
    found[message.__name__] = schema = record({})
    for name, field in fields_of(message).items():
        if field.entry is not None:
            schema["properties"][name] = {
                "type": "object",
                "additionalProperties": _field_schema(field.entry["value"], found),
            }
            continue
        one = _field_schema(field, found)
        schema["properties"][name] = array(one) if field.repeated else one
    return found


def _field_schema(field: Any, found: Schema) -> Schema:
    if field.message is not None:
        _config(field.message, found)
        return ref(field.message.__name__)
    if field.enum is not None:
        return {"type": "string", "enum": list(enum_names(field.enum))}
    if field.kind in ("string", "bytes"):
        return STRING
    if field.kind == "bool":
        return BOOLEAN
    if field.kind in FLOATS:
        return {"type": ["number", "string"], "description": "A string for NaN and infinities."}
    # proto3 writes 64-bit integers as strings; the protocol does so with some only.
    return {"type": ["integer", "string"]} if field.kind.endswith("int64") else {"type": "integer"}
