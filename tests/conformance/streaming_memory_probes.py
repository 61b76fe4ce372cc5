"""Decoupled answers into system shared memory, over `models_streaming/`; the order is the story.

Every answer of a request has the same place, so that the last one is found there. What stands in memory is told by the
model itself: `repeat` answers with the numbers of its input, which may be anywhere in the region.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.grpc_exchange import GrpcProbe
from tests.conformance.shared_memory_probes import KEY, OBJECT_BYTES, numbered, parameters, system

if TYPE_CHECKING:
    from collections.abc import Iterator


def grpc_streaming_memory_probes() -> list[GrpcProbe]:
    """Every probe, in the order in which it has to be asked."""
    return numbered([*story()])


def outputs(**places: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "parameters": place} for name, place in places.items()]


def repeat(values: list[int], wanted: list[dict[str, Any]], **more: Any) -> Any:
    """A request to `repeat`."""
    inputs = [{"name": "IN", "datatype": "INT32", "shape": [len(values)]}]
    message = ParseDict(
        {"model_name": "repeat", "inputs": inputs, "outputs": wanted, "id": "mine", **more}, pb.ModelInferRequest()
    )
    message.raw_input_contents.append(struct.pack(f"<{len(values)}i", *values))
    return message


def script(steps: list[list[str]], wanted: list[dict[str, Any]]) -> Any:
    """A request to `script`, whose strings go to OUT."""
    inputs = [{"name": "STEPS", "datatype": "BYTES", "shape": [1]}]
    message = ParseDict({"model_name": "script", "inputs": inputs, "outputs": wanted}, pb.ModelInferRequest())
    text = json.dumps(steps).encode()
    message.raw_input_contents.append(struct.pack("<I", len(text)) + text)
    return message


def memory(offset: int, count: int) -> GrpcProbe:
    """What stands there, as `count` numbers."""
    place = parameters(offset=offset, size=4 * count)
    inputs = [{"name": "IN", "datatype": "INT32", "shape": [count], "parameters": place}]
    wanted = [{"name": "OUT"}]
    message = ParseDict({"model_name": "repeat", "inputs": inputs, "outputs": wanted}, pb.ModelInferRequest())
    return GrpcProbe(f"memory {offset} {count}", "ModelStreamInfer", [message])


def stream(name: str, *requests: Any) -> GrpcProbe:
    return GrpcProbe(f"stream {name}", "ModelStreamInfer", list(requests))


def story() -> Iterator[GrpcProbe]:
    both = outputs(OUT=parameters(offset=0, size=4), INDEX=parameters(offset=64, size=4))
    final = {"triton_enable_empty_final_response": {"bool_param": True}}
    yield system("Register", name="a", key=KEY, byte_size=OBJECT_BYTES)
    yield stream("one answer", repeat([4], both))
    yield memory(0, 1)
    yield stream("three answers, the last one stays", repeat([5, 6, 7], both))
    yield memory(0, 1)
    yield memory(64, 1)
    yield stream("final empty", repeat([8, 9], both, parameters=final))
    yield stream("no answer", repeat([], both, parameters=final))
    yield stream("one of two outputs", repeat([10], outputs(INDEX={}, OUT=parameters(offset=8, size=4))))
    yield memory(0, 3)
    yield stream("more room than needed", repeat([11], outputs(OUT=parameters(offset=16, size=100))))
    yield memory(16, 2)
    yield stream("two requests", repeat([12], outputs(OUT=parameters(offset=24, size=4))), repeat([13], both))
    yield memory(0, 7)
    for name, place in {
        "too small": parameters(offset=0, size=3),
        "nothing": parameters(offset=0, size=0),
        "beyond the region": parameters(offset=OBJECT_BYTES - 3, size=4),
        "unknown region": parameters("none"),
    }.items():
        yield stream(name, repeat([14, 15], outputs(OUT=place)))
        yield memory(0, 1)
    texts = outputs(OUT=parameters(offset=128, size=16))
    yield stream("strings", script([["text", "first"], ["last_text", "ab", "", "c"]], texts))
    yield memory(128, 4)
    yield stream(
        "strings that are too long between", script([["text", "a"], ["text", "x" * 13], ["last_text", "b"]], texts)
    )
    yield memory(128, 4)
    yield stream("errors between", script([["text", "d"], ["error", "odd"], ["last_text", "e"]], texts))
    yield memory(128, 2)
    yield system("Unregister", name="a")
    yield stream("unregistered", repeat([16], both))
