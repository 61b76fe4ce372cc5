"""The gRPC questions that are asked of both servers, over the repository `models/` in its default control mode."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.grpc_exchange import GrpcProbe
from tests.conformance.http_probes import MISBEHAVIOURS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW = struct.pack("<16i", *range(16))
VERSIONS = (
    "",
    "1",
    "0",
    "-1",
    "9",
    "01",
    "abc",
    "1abc",
    " 1",
    "+1",
    "1.5",
    "99999999999999999999",
    "9223372036854775807",
)


def grpc_probes() -> list[GrpcProbe]:
    """Every probe; names are unique."""
    probes = [
        *management_probes(),
        *infer_probes(),
        *content_probes(),
        *parameter_probes(),
        *output_probes(),
        *fault_probes(),
        *stream_probes(),
        *transport_probes(),
        *statistics_probes(),
    ]
    assert len({probe.name for probe in probes}) == len(probes)
    return probes


def tensor(name: str, shape: list[int], datatype: str, **more: Any) -> Any:
    """An input's description; `contents=` and `parameters=` in the JSON form of the messages."""
    return ParseDict(
        {"name": name, "shape": shape, "datatype": datatype, **more}, pb.ModelInferRequest.InferInputTensor()
    )


def request(model: str, inputs: list[Any], raw: list[bytes] | None = None, **more: Any) -> Any:
    """An infer request; `more` is the JSON form of other fields."""
    message = ParseDict({"model_name": model, **more}, pb.ModelInferRequest())
    message.inputs.extend(inputs)
    message.raw_input_contents.extend(raw or [])
    return message


def addsub(**more: Any) -> Any:
    """A right request to `simple`."""
    return request("simple", pair(), [ROW, ROW], **more)


def pair(**second: Any) -> list[Any]:
    """The two inputs of `simple`, the second one changed."""
    changed = {"name": "INPUT1", "shape": [1, 16], "datatype": "INT32", **second}
    return [tensor("INPUT0", [1, 16], "INT32"), tensor(**changed)]


def infer(name: str, message: Any) -> GrpcProbe:
    """A unary infer call."""
    return GrpcProbe(f"infer {name}", "ModelInfer", message)


def management_probes() -> Iterator[GrpcProbe]:
    """Health, metadata, configuration, repository."""
    for rpc in ("ServerLive", "ServerReady", "ServerMetadata"):
        yield GrpcProbe(rpc, rpc, getattr(pb, f"{rpc}Request")())
    for model in ["simple", "echo", "identity_any", "scores", "versioned", "slow", "nope"]:
        yield GrpcProbe(f"metadata {model}", "ModelMetadata", pb.ModelMetadataRequest(name=model))
        yield GrpcProbe(f"config {model}", "ModelConfig", pb.ModelConfigRequest(name=model))
        yield GrpcProbe(f"ready {model}", "ModelReady", pb.ModelReadyRequest(name=model))
    for rpc in ("ModelMetadata", "ModelConfig", "ModelReady", "ModelStatistics"):
        kind = getattr(pb, f"{rpc}Request")
        yield (
            GrpcProbe(f"{rpc} nameless", rpc, kind())
            if rpc != "ModelStatistics"
            else GrpcProbe(rpc, rpc, kind(name="nope"))
        )
        for version in VERSIONS[1:]:
            yield GrpcProbe(f"{rpc} simple {version!r}", rpc, kind(name="simple", version=version))
        for version in ("1", "2", "3"):
            if rpc != "ModelStatistics":
                yield GrpcProbe(f"{rpc} versioned {version!r}", rpc, kind(name="versioned", version=version))
    yield GrpcProbe("index", "RepositoryIndex", pb.RepositoryIndexRequest())
    yield GrpcProbe("index ready", "RepositoryIndex", pb.RepositoryIndexRequest(ready=True))
    yield GrpcProbe("index of a named one", "RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"))
    yield GrpcProbe("load", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="simple"))
    yield GrpcProbe("unload", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="simple"))
    for name, sent in (("health", b""), ("health of a service", b"\n\x09inference")):
        yield GrpcProbe(name, "Check", sent, service="grpc.health.v1.Health")


def infer_probes() -> Iterator[GrpcProbe]:
    """Requests described rightly and wrongly."""
    yield infer("ok", addsub())
    yield infer("ok with id", addsub(id="abc"))
    yield infer("nameless model", request("", pair(), [ROW, ROW]))
    yield infer("unknown model", request("nope", pair(), [ROW, ROW]))
    for version in VERSIONS:
        yield infer(f"version {version!r}", addsub(model_version=version))
    yield infer("version policy", request("versioned", [tensor("X", [2], "FP32")], [bytes(8)], model_version="2"))
    yield infer("highest version", request("versioned", [tensor("X", [2], "FP32")], [struct.pack("<2f", 1, 2)]))
    yield infer("no inputs", request("simple", []))
    yield infer("one input", request("simple", pair()[:1], [ROW]))
    yield infer("input twice", request("simple", [*pair(), pair()[1]], [ROW] * 3, id="dup"))
    yield infer("three inputs", request("simple", [*pair(), tensor("INPUT2", [1, 16], "INT32")], [ROW] * 3))
    changes: tuple[dict[str, Any], ...] = (
        {"name": "NOPE"},
        {"name": ""},
        {"datatype": "FP32"},
        {"datatype": "INT33"},
        {"datatype": ""},
        {"datatype": "BYTES"},
        {"shape": []},
        {"shape": [16]},
        {"shape": [1, 8]},
        {"shape": [2, 16]},
        {"shape": [2, 8]},
        {"shape": [9, 16]},
        {"shape": [0, 16]},
        {"shape": [-1, 16]},
        {"shape": [1, -1]},
        {"shape": [-2, -8]},
        {"shape": [4294967296, 4294967296]},
        {"shape": [9223372036854775807, 2]},
        {"shape": [1] * 50},
    )
    for change in changes:
        yield infer(f"second input {str(change)[:60]}", request("simple", pair(**change), [ROW, ROW]))
    for count in range(4):
        yield infer(f"{count} raw entries", request("simple", pair(), [ROW] * count))
    for length in (0, 1, 63, 65, 128):
        yield infer(f"raw of {length} bytes", request("simple", pair(), [ROW, bytes(length)]))
    nine = [tensor(f"INPUT{i}", [9, 16], "INT32") for i in (0, 1)]
    yield infer("batch of 9", request("simple", nine, [ROW * 9] * 2))
    yield infer("zero rows", request("identity_fp32", [tensor("INPUT0", [0, 2], "FP32")], [b""]))
    yield infer("optional left out", request("optional", [tensor("A", [1, 2], "FP32")], [bytes(8)]))
    yield infer("optional only", request("optional", [tensor("B", [1, 2], "FP32")], [bytes(8)]))


def content_probes() -> Iterator[GrpcProbe]:
    """Typed contents of every datatype, wrong lists, mixtures with raw contents, BYTES with lying lengths."""
    fields = {
        "BOOL": ("bool_contents", [True, False]),
        "INT8": ("int_contents", [-128, 127]),
        "INT16": ("int_contents", [-5, 70000]),
        "INT32": ("int_contents", [-5, 70000]),
        "INT64": ("int64_contents", [-(2**63), 5]),
        "UINT8": ("uint_contents", [255, 256]),
        "UINT16": ("uint_contents", [1, 65536]),
        "UINT32": ("uint_contents", [1, 2**32 - 1]),
        "UINT64": ("uint64_contents", [1, 2**64 - 1]),
        "FP32": ("fp32_contents", [0.1, 2.5]),
        "FP64": ("fp64_contents", [0.1, 2.5]),
        "BYTES": ("bytes_contents", ["YWI=", ""]),
    }
    for datatype, (field, values) in fields.items():
        one = tensor(f"IN_{datatype}", [1, 2], datatype, contents={field: values})
        yield infer(f"typed {datatype}", request("identity_any", [one]))
        short = tensor(f"IN_{datatype}", [1, 2], datatype, contents={field: values[:1]})
        yield infer(f"typed {datatype} short", request("identity_any", [short]))
        other = ("fp32_contents", [1, 2]) if field != "fp32_contents" else ("int_contents", [1, 2])
        wrong = tensor(f"IN_{datatype}", [1, 2], datatype, contents=dict([other]))
        yield infer(f"typed {datatype} in {other[0]}", request("identity_any", [wrong]))
    for datatype in ("FP16", "BF16"):
        for field in ("fp32_contents", "int_contents"):
            one = tensor(f"IN_{datatype}", [1, 2], datatype, contents={field: [1, 2]})
            yield infer(f"typed {datatype} in {field}", request("identity_any", [one]))
        yield infer(
            f"raw {datatype}", request("identity_any", [tensor(f"IN_{datatype}", [1, 2], datatype)], [bytes(4)])
        )
    typed = {"int_contents": list(range(16))}
    both = [tensor(f"INPUT{i}", [1, 16], "INT32", contents=typed) for i in (0, 1)]
    yield infer("typed both", request("simple", both))
    yield infer("typed and raw", request("simple", both, [ROW, ROW]))
    yield infer("typed and raw mixed", request("simple", [both[0], pair()[1]], [ROW]))
    yield infer("typed and nothing", request("simple", [both[0], pair()[1]]))
    yield infer("empty contents", request("simple", pair(contents={}), [ROW]))
    yield infer("empty contents alone", request("simple", [both[0], pair(contents={})[1]]))
    twice = tensor("IN_INT32", [1, 2], "INT32", contents={"int_contents": [1, 2], "int64_contents": [1, 2]})
    yield infer("two lists", request("identity_any", [twice]))
    for name, raw in lying_bytes().items():
        yield infer(f"bytes {name}", request("identity_bytes", [tensor("INPUT0", [1, 2], "BYTES")], [raw]))


def lying_bytes() -> dict[str, bytes]:
    """BYTES tensors of two elements, honest and not."""

    def element(text: bytes, length: int | None = None) -> bytes:
        return struct.pack("<I", len(text) if length is None else length) + text

    return {
        "two": element(b"ab") + element(b"\xff"),
        "one": element(b"ab"),
        "three": element(b"a") * 3,
        "cut length": element(b"ab") + b"\x01",
        "cut text": element(b"ab") + element(b"c", 9),
        "huge": element(b"ab", 2**32 - 1),
        "none": b"",
    }


def parameter_probes() -> Iterator[GrpcProbe]:
    """What a model sees of parameters, and which are refused."""
    values: tuple[dict[str, Any], ...] = (
        {"bool_param": True},
        {"int64_param": 5},
        {"int64_param": -5},
        {"string_param": "text"},
        {"string_param": ""},
        {"double_param": 1.5},
        {"uint64_param": 7},
        {},
    )
    keys = [
        "custom",
        "sequence_id",
        "sequence_start",
        "sequence_end",
        "priority",
        "timeout",
        "headers",
        "binary_data_output",
        "triton_thing",
        "triton_enable_empty_final_response",
    ]
    for key in keys:
        for value in values:
            parameters = {key: value}
            yield infer(
                f"parameter {key} {value}",
                request("echo", [tensor("X", [1, 1], "INT32")], [b"\1\0\0\0"], parameters=parameters),
            )


def output_probes() -> Iterator[GrpcProbe]:
    """Requested outputs and their parameters."""

    def wanted(*outputs: dict[str, Any], model: str = "scores") -> Any:
        return request(
            model, [tensor("X", [2, 4], "FP32")], [struct.pack("<8f", 4, 3, 2, 1, 1, 2, 3, 4)], outputs=outputs
        )

    yield infer("output unknown", addsub(outputs=[{"name": "NOPE"}]))
    yield infer("output nameless", addsub(outputs=[{}]))
    yield infer("output one", addsub(outputs=[{"name": "OUTPUT1"}]))
    yield infer("output twice", addsub(outputs=[{"name": "OUTPUT1"}, {"name": "OUTPUT1"}]))
    values: tuple[dict[str, Any], ...] = (
        {"int64_param": 2},
        {"int64_param": 99},
        {"int64_param": 0},
        {"int64_param": -1},
        {"string_param": "2"},
        {"bool_param": True},
        {"uint64_param": 2},
        {},
    )
    for value in values:
        yield infer(f"classification {value}", wanted({"name": "Y", "parameters": {"classification": value}}))
    two = {"classification": {"int64_param": 2}}
    yield infer("classify FP64", wanted({"name": "NEGATED", "parameters": two}))
    yield infer("classify BOOL", wanted({"name": "POSITIVE", "parameters": two}))
    yield infer("classify one of two", wanted({"name": "Y", "parameters": two}, {"name": "NEGATED"}))
    regions: tuple[dict[str, Any], ...] = (
        {"shared_memory_region": {"string_param": "nope"}},
        {"shared_memory_region": {"string_param": "nope"}, "shared_memory_byte_size": {"int64_param": 64}},
        {"shared_memory_region": {"int64_param": 1}},
        {"shared_memory_offset": {"int64_param": 1}},
        {"shared_memory_byte_size": {"int64_param": 1}},
        {"unknown": {"int64_param": 1}},
    )
    for parameters in regions:
        yield infer(f"output with {parameters}", addsub(outputs=[{"name": "OUTPUT0", "parameters": parameters}]))
        yield infer(f"input with {parameters}", request("simple", pair(parameters=parameters), [ROW, ROW]))


def misbehave(how: str, identity: str = "m") -> Any:
    """A request to the model that goes wrong."""
    return request(
        "misbehave", [tensor("HOW", [1], "BYTES")], [struct.pack("<I", len(how)) + how.encode()], id=identity
    )


def fault_probes() -> Iterator[GrpcProbe]:
    """Models that go wrong."""
    for how in MISBEHAVIOURS:
        yield infer(f"misbehave {how}", misbehave(how))


def stream_probes() -> Iterator[GrpcProbe]:
    """Streams of requests to models with one answer each: order, errors in between, the final marker."""

    def stream(name: str, *requests: Any, metadata: tuple[tuple[str, str], ...] = ()) -> GrpcProbe:
        return GrpcProbe(f"stream {name}", "ModelStreamInfer", list(requests), metadata=metadata)

    good = addsub(id="good")
    yield stream("empty")
    yield stream("one", good)
    yield stream("three", addsub(id="1"), addsub(id="2"), addsub(id="3"))
    yield stream("two models", addsub(id="1"), request("versioned", [tensor("X", [2], "FP32")], [bytes(8)], id="2"))
    yield stream("unknown model in the middle", addsub(id="1"), request("nope", [], id="2"), addsub(id="3"))
    yield stream("bad input in the middle", addsub(id="1"), request("simple", pair(), [ROW], id="2"), addsub(id="3"))
    yield stream("bad version", addsub(id="1", model_version="x"), addsub(id="2"))
    yield stream("model raises", misbehave("raises", "1"), misbehave("fine", "2"))
    yield stream("model refuses", misbehave("error_invalid_arg", "1"))
    final = {"triton_enable_empty_final_response": {"bool_param": True}}
    yield stream("empty final asked", addsub(id="1", parameters=final))
    plain = (("triton_grpc_error", "true"),)
    yield stream("errors as status, before execution", request("nope", [], id="1"), good, metadata=plain)
    yield stream("errors as status, by the model", misbehave("error_invalid_arg", "1"), metadata=plain)


def transport_probes() -> Iterator[GrpcProbe]:
    """Below the messages."""
    yield GrpcProbe("garbage", "ModelInfer", b"\xff\xff\xff\xff")
    yield GrpcProbe("garbage to management", "ModelMetadata", b"\x0a\x05ab")
    yield GrpcProbe("unknown method", "NoSuchMethod", b"")
    yield GrpcProbe("unknown service", "ServerLive", b"", service="inference.Nothing")
    yield GrpcProbe("watch", "Watch", b"", service="grpc.health.v1.Health")
    yield GrpcProbe("reflection", "ServerReflectionInfo", b"", service="grpc.reflection.v1alpha.ServerReflection")
    yield GrpcProbe("unknown field", "ServerLive", b"\xa2\x06\x03abc")
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        yield GrpcProbe(f"request in {compression.name}", "ModelInfer", addsub(), compression=compression)
    yield GrpcProbe("extra metadata", "ServerLive", b"", metadata=(("x-anything", "1"),))


def statistics_probes() -> Iterator[GrpcProbe]:
    """Counts after a known history, without durations: `text` has two good requests and one refused."""
    element = struct.pack("<I", 1) + b"a"
    for rows in (1, 2):
        yield infer(f"counted {rows}", request("text", [tensor("INPUT0", [rows, 1], "BYTES")], [element * rows]))
    yield infer("counted nowhere", request("text", [tensor("INPUT0", [1, 2], "BYTES")], [element * 2]))
    for model in ("text", "versioned", "misbehave", "optional"):
        yield GrpcProbe(f"statistics {model}", "ModelStatistics", pb.ModelStatisticsRequest(name=model))
    one = pb.ModelStatisticsRequest(name="versioned", version="3")
    yield GrpcProbe("statistics of a version", "ModelStatistics", one)
