"""The shared-memory extension over both doors, over `models/`; the order is the story.

A shared memory object of two pages exists while the questions are asked. KEY in a question stands for its name. Regions
start at its start: the reference server adds an offset of registration twice, and reads beyond its own mapping.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import attrs
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.grpc_exchange import GrpcProbe
from tests.conformance.http_exchange import HttpProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "KEY"
OBJECT_BYTES = 8192
HANDLE = b64encode(b"x" * 64).decode()
ROW = [list(range(16))]
SYSTEM, CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"


def http_shared_memory_probes() -> list[HttpProbe]:
    """Every HTTP probe, in the order in which it has to be asked."""
    return numbered([*http_route_probes(), *http_register_probes(), *http_use_probes(), *http_end_probes()])


def grpc_shared_memory_probes() -> list[GrpcProbe]:
    """Every gRPC probe, in the order in which it has to be asked."""
    return numbered([*grpc_register_probes(), *grpc_use_probes(), *grpc_end_probes()])


def numbered(probes: list[Any]) -> list[Any]:
    """With the place in the story in front of the name."""
    return [attrs.evolve(probe, name=f"{index:03d} {probe.name}") for index, probe in enumerate(probes)]


# HTTP


def get(path: str) -> HttpProbe:
    return HttpProbe(f"get {path}", "GET", path)


def post(path: str, body: Any = None) -> HttpProbe:
    text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
    return HttpProbe(f"post {path} {text[:100]}", "POST", path, text.encode())


def http_route_probes() -> Iterator[HttpProbe]:
    """Routes, methods and missing names, before anything is registered."""
    for kind in (SYSTEM, CUDA):
        for path in ("/status", "/region/none/status", "/register", "/region//status", "/region/a/b/status", ""):
            yield get(kind + path)
        yield post(f"{kind}/status")
        yield post(f"{kind}/register", {})
        for body in (None, "", "{bad", "[]", "1", '"text"', "{}"):
            yield post(f"{kind}/region/a/register", body)
        for path in ("/unregister", "/region/none/unregister", "/region/a%20b/unregister"):
            yield post(kind + path)
            yield post(kind + path, "{bad")


def http_register_probes() -> Iterator[HttpProbe]:
    """What can be wrong with a region, then one that is right, then what is wrong because it is there."""
    register = f"{SYSTEM}/region/a/register"
    for body in (
        {"key": KEY},
        {"byte_size": 8},
        {"key": 1, "byte_size": 8},
        {"key": None, "byte_size": 8},
        {"key": KEY, "byte_size": "8"},
        {"key": KEY, "byte_size": -8},
        {"key": KEY, "byte_size": 8.5},
        {"key": KEY, "byte_size": 8, "offset": "0"},
        {"key": KEY, "byte_size": 8, "offset": -1},
        {"key": KEY, "byte_size": 8, "offset": None},
        {"key": "", "byte_size": 8},
        {"key": "///", "byte_size": 8},
        {"key": "/there_is_no_such_object", "byte_size": 8},
        {"key": "a/b", "byte_size": 8},
        {"key": "/..", "byte_size": 8},
        {"key": "x" * 300, "byte_size": 8},
        {"key": "/triton_python_backend_shm_region_x", "byte_size": 8},
        {"key": KEY, "byte_size": 0},
        {"key": KEY, "byte_size": OBJECT_BYTES + 1},
        {"key": KEY, "byte_size": 2**64 - 1},
        {"key": KEY, "byte_size": 2**64},
        {"key": KEY, "byte_size": 8, "offset": 1},
        {"key": KEY, "byte_size": 4097, "offset": 4096},
        {"key": KEY, "byte_size": 1, "offset": OBJECT_BYTES},
        {"key": KEY, "byte_size": OBJECT_BYTES},
        {"key": KEY, "byte_size": OBJECT_BYTES},
        {"key": "", "byte_size": 0},
        {},
    ):
        yield post(register, body)
    yield get(f"{SYSTEM}/status")
    yield get(f"{SYSTEM}/region/a/status")
    yield get(f"{CUDA}/region/a/status")
    yield get(f"{CUDA}/status")
    cuda = {"raw_handle": {"b64": HANDLE}, "device_id": 0, "byte_size": 8}
    yield post(f"{CUDA}/region/a/register", cuda)
    for changes in (
        {},
        {"raw_handle": HANDLE},
        {"raw_handle": {}},
        {"raw_handle": {"b64": 1}},
        {"raw_handle": {"b64": ""}},
        {"raw_handle": {"b64": "!!"}},
        {"raw_handle": {"b64": b64encode(b"x" * 63).decode()}},
        {"raw_handle": {"b64": b64encode(b"x" * 65).decode()}},
        {"device_id": "0"},
        {"device_id": -1},
        {"byte_size": "8"},
        {"byte_size": None},
    ):
        yield post(f"{CUDA}/region/c/register", {**cuda, **changes})
    for missing in cuda:
        yield post(f"{CUDA}/region/c/register", {name: value for name, value in cuda.items() if name != missing})
    for path in ("/region/a/unregister", "/unregister"):
        yield post(CUDA + path)
    yield get(f"{SYSTEM}/status")


def place(region: Any = "a", offset: Any = 0, size: Any = 64, **more: Any) -> dict[str, Any]:
    """The parameters of a tensor in shared memory."""
    return {
        "shared_memory_region": region,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": size,
        **more,
    }


def addsub(first: dict[str, Any], outputs: list[dict[str, Any]] | None = None, **more: Any) -> HttpProbe:
    """An infer call to `simple`, with these parameters for its first input."""
    inputs = [
        {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "parameters": first, **more},
        {"name": "INPUT1", "datatype": "INT32", "shape": [1, 16], "data": ROW},
    ]
    body: dict[str, Any] = {"inputs": inputs}
    if outputs is not None:
        body["outputs"] = outputs
    name = f"infer {first} {more or ''} {outputs or ''}"
    return HttpProbe(name, "POST", "/v2/models/simple/infer", json.dumps(body).encode())


def http_use_probes() -> Iterator[HttpProbe]:
    """Inputs and outputs in the region: the object begins with zeros, and ends with what was written to it."""
    yield addsub(place())
    for first in (
        place("none"),
        place(1),
        place(None),
        place(offset="0"),
        place(offset=-1),
        place(size="64"),
        place(size=60),
        place(size=68),
        place(size=0),
        place(offset=8, size=0),
        place(offset=OBJECT_BYTES),
        place(offset=OBJECT_BYTES, size=0),
        place(offset=OBJECT_BYTES - 60),
        place(offset=2**64 - 1),
        {"shared_memory_region": "a"},
        {"shared_memory_region": "a", "shared_memory_byte_size": 64},
        place(binary_data_size=64),
    ):
        yield addsub(first)
    yield addsub(place(), data=ROW)
    for parameters in (
        place(offset=128),
        place(offset=256, size=100),
        place(offset=128, size=63),
        place(offset=128, size=0),
        place(size=0),
        place("none"),
        place(offset=OBJECT_BYTES),
        place(offset=OBJECT_BYTES - 60),
        place(binary_data=False),
        place(binary_data=True),
        place(binary_data="x"),
        place(classification=1),
        place(classification=0),
        place(classification="x"),
        {"shared_memory_region": "a"},
    ):
        yield addsub(place(offset=1024), [{"name": "OUTPUT0", "parameters": parameters}])
        yield addsub(place(offset=128))
    both = [{"name": "OUTPUT0", "parameters": place(offset=128)}, {"name": "OUTPUT1", "parameters": place(offset=192)}]
    yield addsub(place(offset=1024), both)
    yield addsub(place(offset=192), [*both, {"name": "OUTPUT1"}])
    yield addsub(place(offset=1024), [both[0], {"name": "OUTPUT1", "parameters": {"binary_data": True}}])
    yield addsub(place(offset=1024), [{"name": "NONE", "parameters": place()}])
    yield addsub(place("none"), [{"name": "OUTPUT0", "parameters": place("other")}])
    yield from http_string_probes()


def http_string_probes() -> Iterator[HttpProbe]:
    """BYTES, out of the region and into it: lengths before the bytes, as everywhere."""

    def strings(shape: list[int], source: dict[str, Any], target: dict[str, Any]) -> HttpProbe:
        one = {"name": "INPUT0", "datatype": "BYTES", "shape": shape, **source}
        body = {"inputs": [one], "outputs": [{"name": "OUTPUT0", "parameters": target}]}
        name = f"strings {shape} {source} {target}"
        return HttpProbe(name, "POST", "/v2/models/identity_bytes/infer", json.dumps(body).encode())

    yield strings([1, 2], {"data": ["ab", "cde"]}, place(offset=4096, size=100))
    yield strings([1, 2], {"parameters": place(offset=4096, size=13)}, {})
    yield strings([1, 2], {"parameters": place(offset=4096, size=13)}, place(offset=4200, size=13))
    yield strings([1, 2], {"parameters": place(offset=4200, size=13)}, {})
    yield strings([1, 2], {"parameters": place(offset=4096, size=13)}, place(offset=4200, size=12))
    yield strings([1, 3], {"parameters": place(offset=4096, size=13)}, {})
    yield strings([1, 1], {"parameters": place(offset=4096, size=13)}, {})


def http_end_probes() -> Iterator[HttpProbe]:
    yield post(f"{SYSTEM}/region/a/unregister")
    yield get(f"{SYSTEM}/status")
    yield addsub(place())
    yield post(f"{SYSTEM}/region/a/register", {"key": "/" + KEY, "offset": 4096, "byte_size": 100})
    yield post(f"{SYSTEM}/region/B/register", {"key": "no", "byte_size": 100})
    yield get(f"{SYSTEM}/status")
    yield post(f"{SYSTEM}/unregister")
    yield get(f"{SYSTEM}/status")


# gRPC


def call(rpc: str, message: str, **fields: Any) -> GrpcProbe:
    """A call with a message in the JSON form."""
    return GrpcProbe(f"{rpc} {fields or ''}", rpc, ParseDict(fields, getattr(pb, message)()))


def system(verb: str, **fields: Any) -> GrpcProbe:
    return call(f"SystemSharedMemory{verb}", f"SystemSharedMemory{verb}Request", **fields)


def cuda(verb: str, **fields: Any) -> GrpcProbe:
    return call(f"CudaSharedMemory{verb}", f"CudaSharedMemory{verb}Request", **fields)


def grpc_register_probes() -> Iterator[GrpcProbe]:
    """As over HTTP; messages leave less to be wrong."""
    for kind in (system, cuda):
        yield kind("Status")
        yield kind("Status", name="none")
        yield kind("Unregister")
        yield kind("Unregister", name="none")
    for fields in (
        {},
        {"key": "no"},
        {"key": KEY},
        {"key": KEY, "byte_size": OBJECT_BYTES + 1},
        {"key": KEY, "byte_size": 8, "offset": 1},
        {"key": KEY, "byte_size": OBJECT_BYTES},
        {"key": KEY, "byte_size": OBJECT_BYTES},
    ):
        yield system("Register", name="a", **fields)
    yield system("Status")
    yield system("Status", name="a")
    yield cuda("Status", name="a")
    yield cuda("Register", name="a", raw_handle=HANDLE, byte_size="8")
    yield cuda("Register", name="c", raw_handle=HANDLE, byte_size="8")
    yield cuda("Unregister", name="a")
    yield system("Status", name="a")


def parameters(region: str | None = "a", offset: int | None = 0, size: int | None = 64, **more: Any) -> dict[str, Any]:
    """The same as `place`, for gRPC."""
    values: dict[str, Any] = {}
    if region is not None:
        values["shared_memory_region"] = {"string_param": region}
    if offset is not None:
        values["shared_memory_offset"] = {"int64_param": offset}
    if size is not None:
        values["shared_memory_byte_size"] = {"int64_param": size}
    return values | more


def grpc_addsub(first: dict[str, Any], output: dict[str, Any] | None = None, raw: int = 1, **more: Any) -> GrpcProbe:
    """An infer call to `simple`: this for the first input, `raw` rows for the others."""
    row = bytes(4) + b"".join(number.to_bytes(4, "little") for number in range(1, 16))
    message = ParseDict(
        {
            "model_name": "simple",
            "inputs": [
                {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "parameters": first, **more},
                {"name": "INPUT1", "datatype": "INT32", "shape": [1, 16]},
            ],
            "outputs": [] if output is None else [{"name": "OUTPUT0", "parameters": output}],
        },
        pb.ModelInferRequest(),
    )
    message.raw_input_contents.extend([row] * raw)
    return GrpcProbe(f"infer {first} {output} {raw} {more or ''}", "ModelInfer", message)


def grpc_use_probes() -> Iterator[GrpcProbe]:
    for first in (
        parameters(),
        parameters("none"),
        parameters(""),
        parameters(size=60),
        parameters(size=0),
        parameters(size=-1),
        parameters(offset=8, size=0),
        parameters(offset=-1),
        parameters(offset=OBJECT_BYTES),
        parameters(offset=OBJECT_BYTES - 60),
        parameters(offset=None),
        parameters(size=None),
        parameters(None),
        parameters(None, size=None),
        parameters(shared_memory_region={"int64_param": 1}),
        parameters(shared_memory_offset={"string_param": "0"}),
        parameters(shared_memory_byte_size={"string_param": "0"}),
    ):
        yield grpc_addsub(first)
    yield grpc_addsub(parameters(), raw=0)
    yield grpc_addsub(parameters(), raw=2)
    yield grpc_addsub(parameters(), contents={"int_contents": list(range(16))})
    yield grpc_addsub(parameters(), contents={})
    for output in (
        parameters(offset=128),
        parameters(offset=256, size=100),
        parameters(offset=128, size=63),
        parameters(offset=128, size=0),
        parameters("none"),
        parameters(offset=OBJECT_BYTES - 60),
        parameters(size=None),
        parameters(None),
        parameters(classification={"int64_param": 1}),
        parameters(classification={"int64_param": 0}),
    ):
        yield grpc_addsub(parameters(offset=1024), output)
        yield grpc_addsub(parameters(offset=128))
    stream = [
        grpc_addsub(parameters(offset=128), parameters(offset=512)).request,
        grpc_addsub(parameters("none")).request,
    ]
    yield GrpcProbe("stream", "ModelStreamInfer", [*stream, grpc_addsub(parameters(offset=1024)).request])


def grpc_end_probes() -> Iterator[GrpcProbe]:
    yield system("Unregister", name="a")
    yield system("Status")
    yield grpc_addsub(parameters())
    yield system("Register", name="a", key=KEY, offset="4096", byte_size="100")
    yield system("Status")
    yield system("Unregister")
    yield system("Status")
