"""What the doors' own options do: forwarded headers, restricted APIs, compressed replies, log settings."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from tests.conformance.grpc_exchange import GrpcProbe
from tests.conformance.http_exchange import HttpProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = (
    "--http-header-forward-pattern=.*",
    "--grpc-header-forward-pattern=^x-|prio|seq|triton_",
    "--http-restricted-api=model-repository,statistics:Admin-Key=secret",
    "--http-restricted-api=model-config:other=1=2",
    "--grpc-restricted-protocol=model-repository,statistics:Admin-Key=secret",
    "--grpc-restricted-protocol=model-config:other=1=2",
    "--grpc-infer-response-compression-level=high",
)
ECHO = {"inputs": [{"name": "X", "shape": [1, 1], "datatype": "INT32", "data": [7]}]}


def http_door_probes() -> list[HttpProbe]:
    """Every probe; the log settings are a story."""
    return [*forwarding(), *restricted(), *compression(), *http_logging()]


def forwarding() -> Iterator[HttpProbe]:
    """Headers that the model sees as parameters."""
    cases: dict[str, tuple[tuple[str, str], ...]] = {
        "none": (),
        "one": (("X-User", "Ann"),),
        "case": (("x-USER", "Ann"),),
        "reserved": (("priority", "1"),),
        "reserved in capitals": (("Priority", "1"),),
        "reserved prefix": (("triton_thing", "1"),),
        "empty": (("X-User", ""),),
        "not ASCII": (("X-User", "\xc3\xa9"),),
    }
    for name, headers in cases.items():
        yield HttpProbe(f"forward {name}", "POST", "/v2/models/echo/infer", json.dumps(ECHO).encode(), headers)
    both = {**ECHO, "parameters": {"x-user": "body"}}
    headers = (("x-user", "header"),)
    yield HttpProbe("forward over a parameter", "POST", "/v2/models/echo/infer", json.dumps(both).encode(), headers)


def restricted() -> Iterator[HttpProbe]:
    """The key missing, wrong and right, for routes of restricted categories and of others."""
    routes = (
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/repository/index"),
        ("POST", "/v2/repository/models/simple/load"),
        ("GET", "/v2/models/simple/stats"),
        ("GET", "/v2/models/simple/config"),
        ("GET", "/v2/models/simple"),
        ("GET", "/v2/health/ready"),
    )
    keys: dict[str, tuple[tuple[str, str], ...]] = {
        "no key": (),
        "wrong": (("Admin-Key", "Secret"), ("other", "1")),
        "right": (("admin-KEY", "secret"), ("Other", "1=2")),
    }
    for method, path in routes:
        for name, headers in keys.items():
            body = b"" if method == "POST" else None
            yield HttpProbe(f"restricted {method} {path} {name}", method, path, body, headers)


def compression() -> Iterator[HttpProbe]:
    """Which coding is chosen, and that the JSON's length is that before compression."""
    body = json.dumps(
        {
            "inputs": [
                {"name": name, "shape": [1, 16], "datatype": "INT32", "data": list(range(16))}
                for name in ("INPUT0", "INPUT1")
            ]
        }
    ).encode()
    binary = json.dumps({**json.loads(body), "parameters": {"binary_data_output": True}}).encode()
    accepts = (
        "gzip",
        "deflate",
        "gzip, deflate",
        "deflate, gzip",
        "gzip, deflate, br",
        "gzip;q=0.5, deflate;q=0.8",
        "gzip;q=0.5,deflate;q=0.5",
        "gzip;q=0",
        "gzip;q=0, deflate;q=0.1",
        "identity, gzip",
        "identity;q=0.2, gzip;q=0.3",
        "identity;q=0.3, gzip;q=0.3",
        "gzip; q=0.2, deflate; q=0.9",
        "GZIP",
        "*",
        "br",
        "",
    )
    for accept in accepts:
        for name, sent in (("json", body), ("binary", binary)):
            headers = (("Accept-Encoding", accept),)
            yield HttpProbe(f"accept {accept!r} {name}", "POST", "/v2/models/simple/infer", sent, headers)
    headers = (("Accept-Encoding", "gzip"),)
    yield HttpProbe("accept on metadata", "GET", "/v2/models/simple", None, headers)
    yield HttpProbe("accept on an error", "POST", "/v2/models/simple/infer", b"{}", headers)
    yield HttpProbe("accept on health", "GET", "/v2/health/live", None, headers)


def http_logging() -> Iterator[HttpProbe]:
    """Shown, changed, refused; what a refused change leaves behind."""
    bodies: tuple[Any, ...] = (
        {"log_verbose_level": 1},
        {"log_info": False, "log_warning": False},
        {"log_format": "ISO8601"},
        {"log_format": "iso8601"},
        {"log_format": "XX", "log_info": True},
        {"log_format": 1},
        {"log_format": None},
        {"log_error": 1},
        {"log_error": "true"},
        {"log_error": None},
        {"log_file": "x"},
        {"log_file": ""},
        {"log_file": 1},
        {"log_file": None},
        {"log_verbose_level": -1},
        {"log_verbose_level": 1.5},
        {"log_verbose_level": "1"},
        {"log_verbose_level": True},
        {"bogus": 1},
        {},
        "",
        "[]",
        "{",
        {"log_verbose_level": 0, "log_info": True, "log_warning": True, "log_format": "default"},
    )
    yield HttpProbe("log before", path="/v2/logging")
    for index, body in enumerate(bodies):
        text = body if isinstance(body, str) else json.dumps(body)
        yield HttpProbe(f"log {index:02d} {text}", "POST", "/v2/logging", text.encode())
    yield HttpProbe("log after", path="/v2/logging")
    yield HttpProbe("log PUT", "PUT", "/v2/logging", b"{}")


def grpc_door_probes() -> list[GrpcProbe]:
    """The same questions over gRPC, as far as they can be asked there."""
    return [*forwarded_metadata(), *restricted_rpcs(), *compressed_replies(), *grpc_logging()]


def echo(**more: Any) -> Any:
    return pb.ModelInferRequest(
        model_name="echo",
        inputs=[{"name": "X", "shape": [1, 1], "datatype": "INT32"}],
        raw_input_contents=[struct.pack("<i", 7)],
        **more,
    )


def forwarded_metadata() -> Iterator[GrpcProbe]:
    """Metadata that the model sees as parameters."""
    cases: dict[str, tuple[tuple[str, str], ...]] = {
        "none": (),
        "one": (("x-user", "Ann"), ("other", "1")),
        "two": (("x-user", "Ann"), ("x-other", "Bob")),
        "reserved": (("priority", "1"),),
        "reserved prefix": (("triton_thing", "1"),),
        "empty": (("x-user", ""),),
    }
    for name, metadata in cases.items():
        yield GrpcProbe(f"forward {name}", "ModelInfer", echo(), metadata=metadata)
        yield GrpcProbe(f"forward {name} stream", "ModelStreamInfer", [echo(id="1"), echo(id="2")], metadata=metadata)
    both = echo(parameters={"x-user": {"string_param": "body"}})
    yield GrpcProbe("forward over a parameter", "ModelInfer", both, metadata=(("x-user", "header"),))


def restricted_rpcs() -> Iterator[GrpcProbe]:
    """The key missing, wrong and right."""
    calls = {
        "RepositoryIndex": pb.RepositoryIndexRequest(),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="simple"),
        "ModelStatistics": pb.ModelStatisticsRequest(name="simple"),
        "ModelConfig": pb.ModelConfigRequest(name="simple"),
        "ModelMetadata": pb.ModelMetadataRequest(name="simple"),
    }
    prefix = "triton-grpc-protocol-"
    keys: dict[str, tuple[tuple[str, str], ...]] = {
        "no key": (),
        "without prefix": (("admin-key", "secret"), ("other", "1=2")),
        "wrong": ((f"{prefix}admin-key", "Secret"), (f"{prefix}other", "1")),
        "right": ((f"{prefix}admin-key", "secret"), (f"{prefix}other", "1=2")),
    }
    for rpc, request in calls.items():
        for name, metadata in keys.items():
            yield GrpcProbe(f"restricted {rpc} {name}", rpc, request, metadata=metadata)


def compressed_replies() -> Iterator[GrpcProbe]:
    """Through a client that undoes whatever the server chose."""
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Deflate, grpc.Compression.Gzip):
        yield GrpcProbe(f"compression {compression.name}", "ModelInfer", echo(), compression=compression)


def grpc_logging() -> Iterator[GrpcProbe]:
    """Shown, changed, refused; what a refused change leaves behind."""
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"log_verbose_level": {"uint32_param": 1}},
        {"log_info": {"bool_param": False}},
        {"log_format": {"string_param": "ISO8601"}},
        {"log_format": {"string_param": "XX"}},
        {"log_format": {"bool_param": True}},
        {"log_format": {}},
        {"log_info": {"string_param": "x"}},
        {"log_info": {}},
        {"log_verbose_level": {"string_param": "1"}},
        {"log_verbose_level": {}},
        {"log_file": {"string_param": "x"}},
        {"log_file": {}},
        {"bogus": {"bool_param": True}},
        {"log_error": {"bool_param": False}, "log_format": {"string_param": "XX"}},
        {
            "log_info": {"bool_param": True},
            "log_error": {"bool_param": True},
            "log_verbose_level": {"uint32_param": 0},
            "log_format": {"string_param": "default"},
        },
    )
    for index, changes in enumerate(settings):
        yield GrpcProbe(f"log {index:02d} {changes}", "LogSettings", pb.LogSettingsRequest(settings=changes))
