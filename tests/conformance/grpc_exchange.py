"""One gRPC call, and its outcome as a value that can be recorded and compared.

Calls go through grpcio's generic channel with the messages that tritonclient ships: the wire is the real client's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import grpc
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

TIMEOUT_SECONDS = 10.0
SERVICE = "inference.GRPCInferenceService"


@attrs.frozen
class GrpcProbe:
    """A named call. `request` is a message, bytes that go out as they are, or a list of messages for the stream."""

    name: str
    rpc: str
    request: Message | bytes | list[Message]
    service: str = SERVICE
    metadata: tuple[tuple[str, str], ...] = ()
    compression: grpc.Compression | None = None


def grpc_answer(channel: grpc.Channel, probe: GrpcProbe) -> dict[str, Any]:
    """Code, details and message(s) of one call."""
    path = f"/{probe.service}/{probe.rpc}"
    options = {"timeout": TIMEOUT_SECONDS, "metadata": probe.metadata, "compression": probe.compression}
    if isinstance(probe.request, list):
        return streamed(channel, path, probe, options)
    call = channel.unary_unary(path, request_serializer=serialised, response_deserializer=bytes)
    try:
        answer, outcome = call.with_call(probe.request, **options)
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}
    return {"code": outcome.code().name, "details": outcome.details(), "message": readable(probe, answer)}


def streamed(channel: grpc.Channel, path: str, probe: GrpcProbe, options: dict[str, Any]) -> dict[str, Any]:
    """Sends all requests, half-closes, and collects what comes until the status."""
    assert isinstance(probe.request, list)
    call = channel.stream_stream(path, request_serializer=serialised, response_deserializer=bytes)
    stream = call(iter(probe.request), **options)
    messages = []
    try:
        messages.extend(as_dict(service_pb2.ModelStreamInferResponse.FromString(answer)) for answer in stream)
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details(), "messages": messages}
    return {"code": stream.code().name, "details": stream.details(), "messages": messages}


def serialised(request: Message | bytes) -> bytes:
    """Raw bytes stay as they are."""
    return request if isinstance(request, bytes) else request.SerializeToString()


def readable(probe: GrpcProbe, answer: bytes) -> Any:
    """The answer as JSON-like values; hexadecimal where its type is not one of the service's."""
    kind = getattr(service_pb2, f"{probe.rpc}Response", None)
    return answer.hex() if kind is None or probe.service != SERVICE else as_dict(kind.FromString(answer))


def as_dict(message: Message) -> dict[str, Any]:
    """Set fields only, under the protocol's own names; bytes become base64."""
    return MessageToDict(message, preserving_proto_field_name=True)
