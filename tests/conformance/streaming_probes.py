"""Questions whose answers come in pieces: generate, generate_stream and ModelStreamInfer over `models_streaming/`."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from tests.conformance.grpc_exchange import GrpcProbe
from tests.conformance.grpc_probes import request, tensor
from tests.conformance.http_exchange import HttpProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the model `script` is told to do, by a name for it.
STORIES: dict[str, list[list[str]]] = {
    "final alone": [["final"]],
    "one": [["last_text", "a"]],
    "one, then final": [["text", "a"], ["final"]],
    "two": [["text", "a"], ["last_text", "b"]],
    "several strings": [["last_text", "a", "", 'ä"\\\n']],
    "error": [["last_error", "odd", "INVALID_ARG"]],
    "error between": [["text", "a"], ["error", "odd"], ["last_text", "b"]],
    "error after an answer": [["text", "a"], ["last_error", "odd"]],
    "raise": [["raise", "bad"]],
}
# Bodies of generate requests.
BODIES = (
    "{}",
    '{"F":1}',
    '{"F":[1,2],"id":"mine","word":"x"}',
    '{"F":[[1,2],[3,4]]}',
    '{"F":null}',
    '{"F":"abc"}',
    '{"B":[true,false]}',
    '{"FIX":[1,2,3,4,5,6]}',
    '{"F":1,"custom":[1,2]}',
    '{"F":1,"parameters":{"custom":3}}',
    '{"F":1,"id":5}',
    '{"F":',
    "[1]",
    "",
)


def http_streaming_probes() -> list[HttpProbe]:
    """Every probe; names are unique."""
    probes = [*story_probes(), *body_probes(), *route_probes(), *empty_probes()]
    assert len({probe.name for probe in probes}) == len(probes)
    return probes


def generate(name: str, model: str, body: str) -> Iterator[HttpProbe]:
    """The same request for one answer and for a stream."""
    for action in ("generate", "generate_stream"):
        yield HttpProbe(f"{action} {name}", "POST", f"/v2/models/{model}/{action}", body.encode())


def story_probes() -> Iterator[HttpProbe]:
    """Numbers and kinds of responses: generate takes exactly one."""
    for name, steps in STORIES.items():
        yield from generate(name, "script", json.dumps({"STEPS": json.dumps(steps)}))
    yield from generate("repeat", "repeat", '{"IN":[4,2,0],"id":"mine"}')
    yield from generate("repeat never", "repeat", '{"IN":[]}')


def body_probes() -> Iterator[HttpProbe]:
    """How JSON becomes tensors and parameters."""
    for body in BODIES:
        yield HttpProbe(f"generate plain {body}", "POST", "/v2/models/plain/generate", body.encode())
    for body in BODIES[1:5]:
        yield HttpProbe(f"generate_stream script {body}", "POST", "/v2/models/script/generate_stream", body.encode())


def route_probes() -> Iterator[HttpProbe]:
    """Models, versions and methods that are not there; infer of a decoupled model."""
    yield from generate("unknown model", "nope", "{}")
    yield from generate("unknown version", "script/versions/7", "{}")
    yield from generate("version", "repeat/versions/1", '{"IN":[4]}')
    for action in ("generate", "generate_stream"):
        yield HttpProbe(f"get {action}", "GET", f"/v2/models/plain/{action}")
    inputs = [{"name": "IN", "shape": [1], "datatype": "INT32", "data": [4]}]
    yield HttpProbe("infer", "POST", "/v2/models/repeat/infer", json.dumps({"inputs": inputs}).encode())


def empty_probes() -> Iterator[HttpProbe]:
    """None of the inputs, where all are optional: of a model with batches, and of one without."""
    for body in ("{}", '{"inputs":[]}', '{"id":"mine"}'):
        yield HttpProbe(f"infer plain {body}", "POST", "/v2/models/plain/infer", body.encode())
    yield from generate("script without inputs", "script", "{}")


def repeat(values: list[int], **more: Any) -> Any:
    """A request to `repeat`."""
    return request("repeat", [tensor("IN", [len(values)], "INT32")], [struct.pack(f"<{len(values)}i", *values)], **more)


def script(steps: list[list[str]], **more: Any) -> Any:
    """A request to `script`."""
    text = json.dumps(steps).encode()
    return request("script", [tensor("STEPS", [1], "BYTES")], [struct.pack("<I", len(text)) + text], **more)


def grpc_streaming_probes() -> list[GrpcProbe]:
    """Every probe; names are unique."""
    infer = [
        ("infer", repeat([1])),
        ("infer without inputs", request("plain", [])),
        ("infer without inputs, with id", request("plain", [], id="mine")),
    ]
    probes = [*stream_probes(), *(GrpcProbe(name, "ModelInfer", message) for name, message in infer)]
    assert len({probe.name for probe in probes}) == len(probes)
    return probes


def stream_probes() -> Iterator[GrpcProbe]:
    """Decoupled answers, their flags, and refusals among them. Only what comes in a fixed order."""

    def stream(name: str, *requests: Any, metadata: tuple[tuple[str, str], ...] = ()) -> GrpcProbe:
        return GrpcProbe(f"stream {name}", "ModelStreamInfer", list(requests), metadata=metadata)

    final = {"triton_enable_empty_final_response": {"bool_param": True}}
    for name, steps in STORIES.items():
        yield stream(name, script(steps, id="mine"))
        yield stream(f"{name}, empty final asked", script(steps, id="mine", parameters=final))
    yield stream("repeat", repeat([4, 2], id="mine"))
    yield stream("repeat, empty final asked", repeat([4, 2], id="mine", parameters=final))
    yield stream("version, empty final asked", repeat([4], model_version="1", parameters=final))
    yield stream("repeat never", repeat([]))
    yield stream("repeat never, empty final asked", repeat([], parameters=final))
    yield stream("same model twice", repeat([1, 2], id="1"), repeat([3], id="2"))
    yield stream("unknown model", request("nope", [], id="mine"))
    yield stream("no inputs, batches", request("plain", [], id="mine"))
    yield stream("no inputs", request("script", [], id="mine"))
    yield stream("missing input", request("repeat", [], id="mine"))
    yield stream("unknown version", repeat([1], id="mine", model_version="7"))
    wrong = {"triton_enable_empty_final_response": {"int64_param": 5}}
    yield stream("empty final by a number", repeat([1], id="mine", parameters=wrong))
    yield stream("reserved parameter", repeat([1], id="mine", parameters={"triton_x": {"int64_param": 5}}))
    plain = (("triton_grpc_error", "true"),)
    yield stream("errors as status, first", script(STORIES["error"], id="mine"), metadata=plain)
    yield stream("errors as status, unknown model", request("nope", [], id="mine"), metadata=plain)
    yield stream("errors as status, raise", script(STORIES["raise"]), metadata=plain)
