"""The HTTP questions that are asked of both servers, over the repository `models/` in its default control mode.

The order matters only for statistics, which are asked last, so that counts are compared too.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

from tests.conformance.http_exchange import HttpProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW = list(range(16))
BINARY = "Inference-Header-Content-Length"
DATATYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")


def http_probes() -> list[HttpProbe]:
    """Every probe; names are unique."""
    probes = [
        *route_probes(),
        *json_probes(),
        *tensor_probes(),
        *data_probes(),
        *binary_probes(),
        *raw_probes(),
        *parameter_probes(),
        *output_probes(),
        *model_fault_probes(),
        *coding_probes(),
        *transport_probes(),
        *statistics_probes(),
    ]
    assert len({probe.name for probe in probes}) == len(probes)
    return probes


def tensor(name: str, shape: list[Any], datatype: str, data: Any) -> dict[str, Any]:
    """An input with JSON data."""
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def addsub(**changes: Any) -> dict[str, Any]:
    """A right request to `simple`, with members of the top level replaced."""
    inputs = [tensor("INPUT0", [1, 16], "INT32", ROW), tensor("INPUT1", [1, 16], "INT32", ROW)]
    return {"inputs": inputs, **changes}


def infer(name: str, model: str, request: Any, **headers: str) -> HttpProbe:
    """An infer call with a JSON body (or text, sent as it is)."""
    body = request if isinstance(request, str) else json.dumps(request)
    pairs = tuple((key.replace("_", "-"), value) for key, value in headers.items())
    return HttpProbe(f"infer {name}", "POST", f"/v2/models/{model}/infer", body.encode(), pairs)


def infer_binary(name: str, model: str, request: Any, tail: bytes, length: str | None = None) -> HttpProbe:
    """An infer call with a binary tail; `length` overrides what the header says of the JSON part."""
    head = json.dumps(request).encode()
    header = (BINARY, str(len(head)) if length is None else length)
    return HttpProbe(f"infer {name}", "POST", f"/v2/models/{model}/infer", head + tail, (header,))


def route_probes() -> Iterator[HttpProbe]:
    """Which paths exist, for which methods."""
    known = (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/simple",
        "/v2/models/simple/config",
        "/v2/models/simple/ready",
        "/v2/models/simple/versions/1",
        "/v2/models/simple/versions/1/ready",
        "/v2/models/simple/versions/1/config",
        "/v2/repository/index",
        "/v2/repository/models/simple/load",
        "/v2/repository/models/simple/unload",
        "/v2/models/simple/infer",
    )
    for path in known:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            yield HttpProbe(f"route {method} {path}", method, path, b"" if method in ("POST", "PUT") else None)
    models = [
        "echo",
        "identity_any",
        "identity_bytes",
        "identity_fp32",
        "misbehave",
        "optional",
        "scores",
        "slow",
        "text",
        "versioned",
    ]
    for model in models:
        yield HttpProbe(f"metadata {model}", path=f"/v2/models/{model}")
        yield HttpProbe(f"config {model}", path=f"/v2/models/{model}/config")
    strange = (
        "/",
        "/v2/",
        "/v1",
        "/v2//health/live",
        "/v2/health",
        "/v2/health/alive",
        "/v2/health/ready/",
        "/v2/health/ready?x=1",
        "/v2/models",
        "/v2/models/",
        "/v2/models/sim%70le",
        "/v2/models/simple/",
        "/v2/models/simple?x=1&y",
        "/v2/models/simple/nothing",
        "/v2/models/simple/versions",
        "/v2/models/simple/versions/",
        "/v2/models/simple/versions/abc",
        "/v2/models/simple/versions/-1",
        "/v2/models/simple/versions/1abc",
        "/v2/models/simple/versions/0",
        "/v2/models/simple/versions/01",
        "/v2/models/simple/versions/9",
        "/v2/models/simple/versions/99999999999999999999",
        "/v2/models/simple/versions/9223372036854775807",
        "/v2/models/simple/versions/9/config",
        "/v2/models/simple/versions/9/ready",
        "/v2/models/simple/versions/9/stats",
        "/v2/models/versioned/versions/1",
        "/v2/models/versioned/versions/2",
        "/v2/models/versioned/versions/2/config",
        "/v2/models/versioned/versions/3/config",
        "/v2/models/versioned/versions/2/ready",
        "/v2/models/versioned/versions/3/ready",
        "/v2/models/nope",
        "/v2/models/nope/config",
        "/v2/models/nope/ready",
        "/v2/models/nope/stats",
        "/v2/models/Simple",
        "/v2/repository",
        "/v2/repository/index/",
        "/v2/nothing",
        "/metrics",
        "/V2/health/live",
    )
    for path in strange:
        yield HttpProbe(f"path {path}", path=path)
    yield HttpProbe("absolute form", path="http://localhost/v2/health/live")
    for path in (
        "/v2/models/nope/infer",
        "/v2/models/simple/versions/9/infer",
        "/v2/models/versioned/versions/2/infer",
    ):
        yield HttpProbe(f"post {path}", "POST", path, b"{}")
    yield HttpProbe("infer by bad version", "POST", "/v2/models/simple/versions/99999999999999999999/infer", b"{}")
    bodies = (b"", b"{}", b'{"ready":true}', b'{"ready":false}', b'{"ready":1}', b"[]", b"{", b'{"other":1}')
    for body in bodies:
        yield HttpProbe(f"index {body.decode()}", "POST", "/v2/repository/index", body)
    yield HttpProbe("index of a named repository", "POST", "/v2/repository/other/index", b"")
    yield HttpProbe("load outside explicit mode", "POST", "/v2/repository/models/simple/load", b"{}")
    yield HttpProbe("unload outside explicit mode", "POST", "/v2/repository/models/simple/unload", b"{}")


def json_probes() -> Iterator[HttpProbe]:
    """Bodies that are no JSON, and JSON that is no request."""
    texts = (
        "",
        " ",
        "{",
        "}",
        "[",
        "[]",
        "null",
        "1",
        '"text"',
        "{}",
        "{}x",
        '{"inputs":[]}',
        '{"inputs":[],}',
        '{"inputs":[1]}',
        '{"inputs":[[]]}',
        '{"inputs":{}}',
        '{"inputs":null}',
        '{"inputs":"text"}',
        "{'inputs':[]}",
        '{"inputs":[]',
        '{"inputs" []}',
        '{"inputs":[] "outputs":[]}',
        '{"inputs":[1,]}',
        '{"inputs":[truth]}',
        '{"inputs":[nul]}',
        '{"inputs":["\\x"]}',
        '{"inputs":["\\u12"]}',
        '{"inputs":["\\ud800"]}',
        '{"inputs":["unfinished}',
        '{"inputs":["\ttab"]}',
        '{"inputs":[01]}',
        '{"inputs":[1.]}',
        '{"inputs":[1e]}',
        '{"inputs":[-]}',
        '{"inputs":[+1]}',
        '{"inputs":[.5]}',
        '{"inputs":[1e400]}',
        '{"inputs":[NaN]}',
        '{"inputs":[nan]}',
        "// comment\n{}",
        "\ufeff{}",
    )
    for text in texts:
        yield infer(f"text {text!r}", "simple", text)
    members: tuple[tuple[str, dict[str, Any]], ...] = (
        ("id number", {"id": 1}),
        ("id null", {"id": None}),
        ("id empty", {"id": ""}),
        ("id text", {"id": "abc"}),
        ("id unicode", {"id": 'ä"\n\u0001'}),
        ("unknown member", {"other": {"deep": [1]}}),
        ("parameters list", {"parameters": []}),
        ("parameters null", {"parameters": None}),
        ("parameters empty", {"parameters": {}}),
        ("outputs object", {"outputs": {}}),
        ("outputs null", {"outputs": None}),
        ("outputs empty", {"outputs": []}),
        ("outputs number", {"outputs": [1]}),
        ("outputs nameless", {"outputs": [{}]}),
        ("outputs name number", {"outputs": [{"name": 1}]}),
        ("outputs unknown", {"outputs": [{"name": "NOPE"}]}),
        ("outputs one", {"outputs": [{"name": "OUTPUT1"}]}),
        ("outputs swapped", {"outputs": [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]}),
        ("outputs twice", {"outputs": [{"name": "OUTPUT1"}, {"name": "OUTPUT1"}]}),
    )
    for name, change in members:
        yield infer(f"member {name}", "simple", addsub(**change))
    yield infer("first of duplicate members", "simple", json.dumps(addsub())[:-1] + ', "inputs": []}')


def tensor_probes() -> Iterator[HttpProbe]:
    """Inputs described wrongly: names, shapes, datatypes, counts."""
    first, second = addsub()["inputs"]

    def changed(name: str, /, **change: Any) -> HttpProbe:
        return infer(f"tensor {name}", "simple", addsub(inputs=[first, {**second, **change}]))

    def without(name: str) -> HttpProbe:
        cut = {key: value for key, value in second.items() if key != name}
        return infer(f"tensor without {name}", "simple", addsub(inputs=[first, cut]))

    for member in ("name", "shape", "datatype", "data"):
        yield without(member)
    yield infer("tensor missing", "simple", addsub(inputs=[first]))
    yield infer("tensor twice", "simple", addsub(inputs=[first, second, second], id="dup"))
    yield infer("tensor three", "simple", addsub(inputs=[first, second, {**second, "name": "INPUT2"}], id="three"))
    yield changed("unknown name", name="NOPE")
    yield changed("empty name", name="")
    yield changed("name number", name=1)
    yield changed("name null", name=None)
    for datatype in ("FP32", "INT64", "BYTES", "INT33", "int32", "", "FP16", "BF16", "TYPE_INT32"):
        yield changed(f"datatype {datatype!r}", datatype=datatype)
    yield changed("datatype number", datatype=1)
    shapes: tuple[Any, ...] = (
        [16],
        [],
        [1, 8],
        [2, 8],
        [16, 1],
        [1, 16, 1],
        [1, 0],
        [0, 16],
        [2, 16],
        [9, 16],
        [1, -16],
        [-1, 16],
        [1, 1.5],
        [1, "16"],
        [1, None],
        [1, True],
        "16",
        16,
        None,
        {},
        [[1, 16]],
        [4294967296, 4294967296],
        [18446744073709551616, 1],
        [1] * 100,
    )
    for shape in shapes:
        yield changed(f"shape {repr(shape)[:60]}", shape=shape)
    for rows in (2, 8, 9):
        data = ROW * rows
        both = [tensor(f"INPUT{i}", [rows, 16], "INT32", data) for i in (0, 1)]
        yield infer(f"batch of {rows}", "simple", {"inputs": both})
    yield infer("batch of 0", "simple", {"inputs": [tensor(f"INPUT{i}", [0, 16], "INT32", []) for i in (0, 1)]})
    yield infer("no batch dimension", "identity_fp32", {"inputs": [tensor("INPUT0", [2], "FP32", [1, 2])]})
    yield infer("wrong fixed dimension", "identity_fp32", {"inputs": [tensor("INPUT0", [2, 3], "FP32", [1] * 6)]})
    yield infer("zero rows", "identity_fp32", {"inputs": [tensor("INPUT0", [0, 2], "FP32", [])]})
    yield infer("three rows", "identity_fp32", {"inputs": [tensor("INPUT0", [3, 2], "FP32", [1, 2, 3, 4, 5, 6])]})
    yield infer("optional none", "optional", {"inputs": []})
    yield infer("optional one", "optional", {"inputs": [tensor("A", [1, 2], "FP32", [1, 2])]})
    yield infer("optional wrong one", "optional", {"inputs": [tensor("B", [1, 2], "FP32", [1, 2])]})
    yield infer("optional both", "optional", {"inputs": [tensor(n, [1, 2], "FP32", [1, 2]) for n in "AB"]})
    yield infer("optional three", "optional", {"inputs": [tensor(n, [1, 2], "FP32", [1, 2]) for n in "ABC"]})
    for version, model in ((1, "versioned"), (3, "versioned")):
        body = json.dumps({"inputs": [tensor("X", [2], "FP32", [1, 2])]}).encode()
        yield HttpProbe(f"infer version {version}", "POST", f"/v2/models/{model}/versions/{version}/infer", body)
    yield infer("highest version", "versioned", {"inputs": [tensor("X", [2], "FP32", [1, 2])]})


def data_probes() -> Iterator[HttpProbe]:
    """JSON data of every datatype, fitting and not."""
    values: dict[str, tuple[Any, ...]] = {
        "BOOL": ([True, False], [1, 0], ["true", "false"], [None, True]),
        "UINT8": ([0, 255], [256, 257], [-1, 0], [1.0, 2], [2**64, 0], [2**32, 1]),
        "UINT16": ([0, 65535], [65536, 0]),
        "UINT32": ([0, 2**32 - 1], [2**32, 2**33]),
        "UINT64": ([0, 2**64 - 1], [2**64, 0], [-1, 0]),
        "INT8": ([-128, 127], [128, -129], [1.5, 0]),
        "INT16": ([-32768, 32767], [32768, 0]),
        "INT32": ([-(2**31), 2**31 - 1], [2**40, 2**31], [True, 0], ["1", 0], [1e3, 0]),
        "INT64": ([-(2**63), 2**63 - 1], [2**63, 0], [-(2**63) - 1, 0]),
        "FP16": ([1, 2],),
        "FP32": ([1, 0.1], [1e300, -1e300], [1e-50, 16777217], ["1", 0], [True, 0], [None, 0]),
        "FP64": ([1, 0.1], [1e308, 5e-324], [2**64, 1]),
        "BF16": ([1, 2],),
        "BYTES": (["a", ""], ["ä\u0000\n\u001f/", "\U0001f600"], [1, "a"], [None, "a"], [["a"], ["b"]]),
    }
    for datatype, choices in values.items():
        for data in choices:
            request = {"inputs": [tensor(f"IN_{datatype}", [1, 2], datatype, data)]}
            yield infer(f"data {datatype} {data!r}", "identity_any", request)
    for text in ("[NaN, Infinity]", "[-Infinity, Inf]", "[-0.0, 1E5]", "[-inf, 1]", "[-NaN, 1]", "[1e400, 1]"):
        body = f'{{"inputs":[{{"name":"IN_FP32","shape":[1,2],"datatype":"FP32","data":{text}}}]}}'
        yield infer(f"data literal {text}", "identity_any", body)
    shapes: tuple[Any, ...] = (
        [[1, 2], [3, 4]],
        [[1], [2, 3, 4]],
        [1, [2, [3, [4]]]],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [],
        [[], []],
        None,
        {},
        "1234",
        5,
        [1, 2, {}, 4],
    )
    for data in shapes:
        request = {"inputs": [tensor("INPUT0", [2, 2], "FP32", data)]}
        yield infer(f"nesting {data!r}", "identity_fp32", request)
    for count in (1, 2, 3):
        request = {"inputs": [tensor("INPUT0", [1, 2], "BYTES", ["a"] * count)]}
        yield infer(f"bytes of {count} for 2", "identity_bytes", request)
    yield infer(
        "several datatypes",
        "identity_any",
        {"inputs": [tensor("IN_INT8", [1, 2], "INT8", [1, 2]), tensor("IN_BYTES", [1, 1], "BYTES", ["x"])]},
    )
    yield infer(
        "batches differ",
        "identity_any",
        {"inputs": [tensor("IN_INT8", [2, 1], "INT8", [1, 2]), tensor("IN_FP32", [1, 1], "FP32", [1])]},
    )


def sized(name: str, shape: list[int], datatype: str, size: Any) -> dict[str, Any]:
    """An input whose data is in the binary tail."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def binary_probes() -> Iterator[HttpProbe]:
    """The binary tensor extension, in both directions."""
    row = struct.pack("<16i", *ROW)
    both = [sized("INPUT0", [1, 16], "INT32", 64), sized("INPUT1", [1, 16], "INT32", 64)]
    json_out = {"inputs": both}
    wanted = [{"name": f"OUTPUT{i}", "parameters": {"binary_data": True}} for i in (0, 1)]
    yield infer_binary("binary in", "simple", json_out, row * 2)
    yield infer_binary("binary in and out", "simple", {"inputs": both, "outputs": wanted}, row * 2)
    yield infer_binary(
        "binary one out", "simple", {"inputs": both, "outputs": [wanted[1], {"name": "OUTPUT0"}]}, row * 2
    )
    yield infer_binary("binary by default", "simple", {**json_out, "parameters": {"binary_data_output": True}}, row * 2)
    default_and_listed = {**json_out, "parameters": {"binary_data_output": True}, "outputs": [{"name": "OUTPUT0"}]}
    yield infer_binary("binary default does not reach listed outputs", "simple", default_and_listed, row * 2)
    yield infer_binary("binary short", "simple", json_out, row + row[:60])
    yield infer_binary("binary short by one input", "simple", json_out, row)
    yield infer_binary("binary none", "simple", json_out, b"")
    yield infer_binary("binary long", "simple", json_out, row * 2 + b"x")
    yield infer_binary("binary mixed", "simple", {"inputs": [both[0], addsub()["inputs"][1]]}, row)
    yield infer_binary("binary mixed second", "simple", {"inputs": [addsub()["inputs"][0], both[1]]}, row)
    for length in ("0", "-1", "1", "99999", "abc", "12abc", "", " 5", "+5", "99999999999", "1.5"):
        yield infer_binary(f"header length {length!r}", "simple", json_out, row * 2, length)
    for size in (-1, 1.5, "64", None, True, 2**63, 2**64, 63, 65, 0):
        yield infer_binary(
            f"binary size {size!r}", "simple", {"inputs": [both[0], sized("INPUT1", [1, 16], "INT32", size)]}, row * 2
        )
    two_sources = {**both[1], "data": ROW}
    yield infer_binary("binary and data", "simple", {"inputs": [both[0], two_sources]}, row * 2)
    yield infer("binary without the header", "simple", json_out)
    yield infer_binary(
        "binary parameters list", "simple", {"inputs": [both[0], {**both[1], "parameters": []}]}, row * 2
    )
    yield infer_binary(
        "binary wrong datatype", "simple", {"inputs": [both[0], sized("INPUT1", [1, 16], "FP32", 64)]}, row * 2
    )
    yield infer_binary(
        "binary no such datatype", "simple", {"inputs": [both[0], sized("INPUT1", [1, 16], "X", 64)]}, row * 2
    )
    yield infer_binary(
        "binary size against shape",
        "simple",
        {"inputs": [both[0], sized("INPUT1", [1, 16], "INT32", 60)]},
        row + row[:60],
    )
    for datatype in DATATYPES:
        width = {"BOOL": 1, "FP16": 2, "FP32": 4, "FP64": 8}.get(datatype) or int(datatype.lstrip("UINT")) // 8
        tail = bytes([1, 0]) if datatype == "BOOL" else bytes(range(1, 2 * width + 1))
        one = {"inputs": [sized(f"IN_{datatype}", [1, 2], datatype, len(tail))]}
        out = {"name": f"OUT_{datatype}", "parameters": {"binary_data": True}}
        yield infer_binary(f"binary {datatype}", "identity_any", {**one, "outputs": [out]}, tail)
        yield infer_binary(f"binary {datatype} to JSON", "identity_any", one, tail)
    yield infer_binary("binary BF16", "identity_any", {"inputs": [sized("IN_BF16", [1, 2], "BF16", 4)]}, bytes(4))
    yield infer_binary(
        "binary NaN to JSON",
        "identity_any",
        {"inputs": [sized("IN_FP32", [1, 3], "FP32", 12)]},
        struct.pack("<3f", float("nan"), float("inf"), float("-inf")),
    )
    yield infer_binary(
        "binary empty",
        "identity_fp32",
        {"inputs": [sized("INPUT0", [0, 2], "FP32", 0)], "parameters": {"binary_data_output": True}},
        b"",
    )
    yield from bytes_probes()


def bytes_probes() -> Iterator[HttpProbe]:
    """BYTES elements with honest and lying lengths."""

    def element(text: bytes, length: int | None = None) -> bytes:
        return struct.pack("<I", len(text) if length is None else length) + text

    tails = {
        "two": element(b"ab") + element(b""),
        "not text": element(b"\xff\xfe") + element(b"\x00"),
        "one": element(b"ab"),
        "three": element(b"a") * 3,
        "cut length": element(b"ab") + b"\x01\x00",
        "cut text": element(b"ab") + element(b"c", 5),
        "huge length": element(b"ab") + element(b"c", 2**32 - 1),
        "nothing": b"",
        "trailing": element(b"a") * 2 + b"xx",
    }
    for name, tail in tails.items():
        request = {"inputs": [sized("INPUT0", [1, 2], "BYTES", len(tail))]}
        yield infer_binary(f"bytes {name}", "identity_bytes", request, tail)
        yield infer_binary(
            f"bytes {name} to binary", "identity_bytes", {**request, "parameters": {"binary_data_output": True}}, tail
        )


def raw_probes() -> Iterator[HttpProbe]:
    """Requests without JSON: the body is the only input."""

    def raw(name: str, model: str, body: bytes, *, header: bool = True) -> HttpProbe:
        headers = ((BINARY, "0"),) if header else ()
        return HttpProbe(f"raw {name}", "POST", f"/v2/models/{model}/infer", body, headers)

    yield raw("text", "text", b"hello")
    yield raw("text empty", "text", b"")
    yield raw("text without the header", "text", b"", header=False)
    yield raw("variable", "identity_fp32", struct.pack("<4f", 1, 2, 3, 4))
    yield raw("variable uneven", "identity_fp32", struct.pack("<3f", 1, 2, 3))
    yield raw("variable bytes left", "identity_fp32", b"12345")
    yield raw("variable empty", "identity_fp32", b"")
    yield raw("fixed", "versioned", struct.pack("<2f", 1, 2))
    yield raw("fixed short", "versioned", struct.pack("<f", 1))
    yield raw("bytes of variable count", "identity_bytes", b"hello")
    yield raw("two inputs", "simple", bytes(128))
    yield raw("many optional inputs", "identity_any", bytes(8))
    yield raw("unknown model", "nope", b"x")


def parameter_probes() -> Iterator[HttpProbe]:
    """What a model sees of parameters, and which are refused."""
    choices: dict[str, tuple[Any, ...]] = {
        "custom": ("text", "", 1, -1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 1.5, True, None, [], {}, "ä"),
        "sequence_id": (0, 5, 2**64 - 1, -1, 1.5, "name", "", True, None),
        "sequence_start": (True, False, 1, "true", None),
        "sequence_end": (True, 0),
        "priority": (0, 1, 2**64 - 1, -1, 1.5, "1", None),
        "timeout": (0, 1000000, -1, "5", 1.5, None),
        "binary_data_output": (False, 1, "x", None),
        "headers": ("x",),
        "triton_thing": (1,),
        "triton_enable_empty_final_response": (True,),
        "": (1,),
    }
    one = {"inputs": [tensor("X", [1, 1], "INT32", [4])]}
    for key, values in choices.items():
        for value in values:
            yield infer(f"parameter {key}={value!r}", "echo", {**one, "parameters": {key: value}})
    several = {
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": True,
        "timeout": 5,
        "a": 1,
        "b": "x",
        "c": False,
    }
    yield infer("parameters several", "echo", {**one, "id": "seen", "parameters": several})
    yield infer("parameters sequence id only", "simple", addsub(parameters={"sequence_id": 3}))
    yield infer("requested outputs seen", "echo", {**one, "outputs": [{"name": "SEEN"}]})
    yield infer("input parameters unknown", "echo", {"inputs": [{**one["inputs"][0], "parameters": {"other": 1}}]})


def output_probes() -> Iterator[HttpProbe]:
    """Output parameters: binary, classification, shared memory."""
    scores = {"inputs": [tensor("X", [1, 4], "FP32", [0.1, 0.95, -3, 20.5])]}
    for name in ("Y", "NEGATED", "POSITIVE"):
        yield infer(
            f"classify {name}", "scores", {**scores, "outputs": [{"name": name, "parameters": {"classification": 2}}]}
        )
    for value in (0, 1, 4, 9, -1, 1.5, "2", True, None):
        wanted = {"name": "Y", "parameters": {"classification": value}}
        yield infer(f"classification {value!r}", "scores", {**scores, "outputs": [wanted]})
    rows = {"inputs": [tensor("X", [2, 4], "FP32", [4, 3, 2, 1, 1, 2, 3, 4])]}
    yield infer(
        "classify two rows", "scores", {**rows, "outputs": [{"name": "Y", "parameters": {"classification": 2}}]}
    )
    wanted = {"name": "Y", "parameters": {"classification": 1, "binary_data": True}}
    yield infer("classify to binary", "scores", {**rows, "outputs": [wanted]})
    yield infer(
        "classify integers", "simple", addsub(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 3}}])
    )
    yield infer(
        "classify one of two",
        "simple",
        addsub(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 1}}, {"name": "OUTPUT1"}]),
    )
    choices: tuple[Any, ...] = (
        {"binary_data": 1},
        {"binary_data": "true"},
        {"binary_data": None},
        {"binary_data": False},
        {"other": 1},
        [],
        None,
        {"shared_memory_region": "nope", "shared_memory_byte_size": 64},
        {"shared_memory_region": "nope", "classification": 1},
        {"shared_memory_region": "nope", "binary_data": True},
    )
    for parameters in choices:
        yield infer(
            f"output parameters {parameters!r}",
            "simple",
            addsub(outputs=[{"name": "OUTPUT0", "parameters": parameters}]),
        )
    shared = {**addsub()["inputs"][0], "parameters": {"shared_memory_region": "nope", "shared_memory_byte_size": 64}}
    yield infer("input with data and region", "simple", addsub(inputs=[shared, addsub()["inputs"][1]]))
    del shared["data"]
    yield infer("input with unknown region", "simple", addsub(inputs=[shared, addsub()["inputs"][1]]))
    asked = [{"name": "OUT_FP16"}]
    yield infer_binary(
        "FP16 to JSON asked",
        "identity_any",
        {"inputs": [sized("IN_FP16", [1, 1], "FP16", 2)], "outputs": asked},
        b"\0\0",
    )
    missing = [{"name": "OUT_FP32"}]
    yield infer(
        "output that the model leaves out",
        "identity_any",
        {"inputs": [tensor("IN_INT8", [1, 1], "INT8", [1])], "outputs": missing},
    )


MISBEHAVIOURS = [
    "fine",
    "raises",
    "raises_empty",
    "raises_model_exception",
    "error",
    "error_unknown",
    "error_internal",
    "error_not_found",
    "error_invalid_arg",
    "error_unavailable",
    "error_unsupported",
    "error_already_exists",
    "error_cancelled",
    "error_empty",
    "error_with_outputs",
    "too_many",
    "too_few",
    "not_a_list",
    "wrong_element",
    "undeclared_output",
    "missing_output",
    "no_outputs",
    "wrong_shape",
    "wrong_datatype",
    "twice",
    "no_such_behaviour",
]


def model_fault_probes() -> Iterator[HttpProbe]:
    """Models that go wrong, each in its own way; `fine` at the end shows that nothing stayed broken."""
    for how in MISBEHAVIOURS:
        yield infer(f"misbehave {how}", "misbehave", {"id": "m", "inputs": [tensor("HOW", [1], "BYTES", [how])]})
    yield infer("misbehave after all", "misbehave", {"inputs": [tensor("HOW", [1], "BYTES", ["fine"])]})


def coding_probes() -> Iterator[HttpProbe]:
    """Content-Encoding and Accept-Encoding."""
    body = json.dumps(addsub()).encode()
    path = "/v2/models/simple/infer"
    bodies = {"gzip": gzip.compress(body, mtime=0), "deflate": zlib.compress(body)}
    for label in ("gzip", "deflate"):
        for coding, data in bodies.items():
            yield HttpProbe(f"coding {coding} called {label}", "POST", path, data, (("Content-Encoding", label),))
    for label in ("identity", "", "br", "GZIP", "gzip, deflate"):
        yield HttpProbe(f"coding {label!r}", "POST", path, body, (("Content-Encoding", label),))
    yield HttpProbe("coding gzip empty", "POST", path, b"", (("Content-Encoding", "gzip"),))
    yield HttpProbe("coding on metadata", "GET", "/v2/models/simple", None, (("Accept-Encoding", "gzip"),))
    yield HttpProbe("coding on an error", "POST", path, b"{}", (("Accept-Encoding", "gzip"),))
    row = struct.pack("<16i", *ROW)
    request = {"inputs": [sized("INPUT0", [1, 16], "INT32", 64), sized("INPUT1", [1, 16], "INT32", 64)]}
    head = json.dumps(request).encode()
    headers = (("Content-Encoding", "gzip"), (BINARY, str(len(head))))
    yield HttpProbe("coding gzip with a tail", "POST", path, gzip.compress(head + row * 2, mtime=0), headers)


def transport_probes() -> Iterator[HttpProbe]:
    """Below the routes: framing, versions, Expect."""
    body = json.dumps(addsub()).encode()
    post = b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: x\r\n"
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    yield HttpProbe("chunked body", raw=post + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
    yield HttpProbe("HTTP/1.0", raw=b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    yield HttpProbe("lower-case header names", raw=post + b"content-length: %d\r\n\r\n" % len(body) + body)
    yield HttpProbe(
        "content type is ignored", "POST", "/v2/models/simple/infer", body, (("Content-Type", "text/html"),)
    )
    yield HttpProbe("connection close", "GET", "/v2/health/live", None, (("Connection", "close"),))
    yield HttpProbe("unknown method", raw=b"BREW /v2 HTTP/1.1\r\nHost: x\r\n\r\n")


def statistics_probes() -> Iterator[HttpProbe]:
    """Counts after a known history, without durations: `text` has three good requests and one refused."""
    for name, rows in (("first", 1), ("second", 2), ("third", 1)):
        yield infer(f"counted {name}", "text", {"inputs": [tensor("INPUT0", [rows, 1], "BYTES", ["a"] * rows)]})
    yield infer("counted nowhere", "text", {"inputs": [tensor("INPUT0", [1, 2], "BYTES", ["a", "b"])]})
    for model in ("text", "optional", "versioned", "misbehave", "slow"):
        yield HttpProbe(f"statistics {model}", path=f"/v2/models/{model}/stats")
    yield HttpProbe("statistics of a version", path="/v2/models/versioned/versions/3/stats")
    yield HttpProbe("statistics by POST", "POST", "/v2/models/stats", b"")


def deadly_probes() -> Iterator[HttpProbe]:
    """What the reference server dies of, or never answers: asked of this project's server only."""
    first, second = addsub()["inputs"]
    for shape in ([2**63 - 1, 2], [2**63, 1], [2**64 - 1, 1]):
        yield infer(f"deadly shape {shape}", "simple", addsub(inputs=[first, {**second, "shape": shape}]))
    for how in ("none", "list_of_none"):
        yield infer(f"deadly return {how}", "misbehave", {"inputs": [tensor("HOW", [1], "BYTES", [how])]})
    yield HttpProbe("deadly request line", raw=b"\r\n\r\nnonsense\r\n\r\n")
