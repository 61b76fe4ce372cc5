"""Loading and unloading over gRPC, in explicit mode over `models_explicit/`; the order is the story."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import attrs
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.grpc_exchange import GrpcProbe
from tests.conformance.grpc_probes import request, tensor
from tests.conformance.http_explicit_probes import BROKEN, CONFIG, MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator


def grpc_explicit_probes() -> list[GrpcProbe]:
    """Every probe, in the order in which it has to be asked."""
    return [attrs.evolve(probe, name=f"{index:03d} {probe.name}") for index, probe in enumerate(story())]


def load(model: str, parameters: dict[str, Any] | None = None, **more: Any) -> GrpcProbe:
    """A load call; parameters in the JSON form of the messages."""
    message = ParseDict({"model_name": model, "parameters": parameters or {}, **more}, pb.RepositoryModelLoadRequest())
    return GrpcProbe(f"load {model} {str(parameters or '')[:50]}", "RepositoryModelLoad", message)


def load_files(model: str, config: dict[str, Any], files: dict[str, bytes]) -> GrpcProbe:
    """A load call that brings the model's files."""
    message = pb.RepositoryModelLoadRequest(model_name=model)
    message.parameters["config"].string_param = json.dumps(config)
    for path, content in files.items():
        message.parameters[path].bytes_param = content
    return GrpcProbe(f"load {model} with {list(files)}", "RepositoryModelLoad", message)


def unload(model: str, parameters: dict[str, Any] | None = None) -> GrpcProbe:
    """An unload call."""
    message = ParseDict({"model_name": model, "parameters": parameters or {}}, pb.RepositoryModelUnloadRequest())
    return GrpcProbe(f"unload {model} {parameters or ''}", "RepositoryModelUnload", message)


def infer(model: str) -> GrpcProbe:
    """One good request to the models of this repository."""
    one = request(model, [tensor("X", [2], "FP32")], [struct.pack("<2f", 1, 2)])
    return GrpcProbe(f"infer {model}", "ModelInfer", one)


def index(**fields: Any) -> GrpcProbe:
    """The repository index."""
    return GrpcProbe(f"index {fields}", "RepositoryIndex", pb.RepositoryIndexRequest(**fields))


def story() -> Iterator[GrpcProbe]:
    """Nothing is loaded; then models come, fail and come back."""
    yield GrpcProbe("ready", "ServerReady", pb.ServerReadyRequest())
    yield index()
    yield index(ready=True)
    yield GrpcProbe("metadata", "ModelMetadata", pb.ModelMetadataRequest(name="plain"))
    yield GrpcProbe("model ready", "ModelReady", pb.ModelReadyRequest(name="plain"))
    yield infer("plain")
    yield load("plain")
    yield infer("plain")
    yield GrpcProbe("model ready now", "ModelReady", pb.ModelReadyRequest(name="plain"))
    yield load("")
    yield load("..")
    yield load("a/b")
    yield load("nope")
    yield load("plain", repository_name="main")
    wrong: tuple[dict[str, Any], ...] = (
        {"config": {"int64_param": 1}},
        {"config": {"string_param": "{"}},
        {"config": {}},
        {"unknown": {"string_param": "x"}},
        {"file:1/model.py": {"string_param": "x"}},
        {"file:1/model.py": {"bytes_param": "eA=="}},
    )
    for parameters in wrong:
        yield load("plain", parameters)
    yield load_files("plain", CONFIG, {"file:1/model.py": MODEL.encode()})
    yield infer("plain")
    yield load_files("fresh", {**CONFIG, "name": "fresh"}, {"file:1/model.py": MODEL.encode()})
    yield infer("fresh")
    yield load("plain", {"config": {"string_param": json.dumps({**CONFIG, "max_batch_size": 4})}})
    yield GrpcProbe("metadata overridden", "ModelMetadata", pb.ModelMetadataRequest(name="plain"))
    yield load("plain")
    yield infer("plain")
    for model in BROKEN:
        yield load(model)
    yield index()
    yield index(ready=True)
    yield GrpcProbe("ready after failures", "ServerReady", pb.ServerReadyRequest())
    yield unload("nope")
    yield unload("plain", {"unload_dependents": {"string_param": "x"}})
    yield unload("plain", {"other": {"bool_param": True}})
    yield unload("fresh", {"unload_dependents": {"bool_param": True}})
