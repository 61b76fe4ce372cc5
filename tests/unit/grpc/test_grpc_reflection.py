"""Server reflection: what grpcio's reflection client finds out, and what each question is answered with."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import trio
from despina.schema.wire.descriptors import protocol_descriptors
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
]
NOT_FOUND, INVALID_ARGUMENT = 5, 3
Request = reflection_pb2.ServerReflectionRequest


async def with_channel(door, work):
    """Runs `work(channel)` in a thread."""

    def run():
        with grpc.insecure_channel(door.url) as channel:
            return work(channel)

    with trio.fail_after(20):
        return await trio.to_thread.run_sync(run)


async def ask(door, *requests, version="v1"):
    """The answers to `requests`, all of one stream."""

    def work(channel):
        # One wire format: the stub of v1alpha serves for both once its path is changed.
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=Request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return list(call(iter(requests), timeout=10))

    return await with_channel(door, work)


def files_of(answer):
    """The files of an answer, parsed by protobuf itself."""
    contents = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(content) for content in contents]


def call_by_reflection(channel, service, method, request):
    """Calls a unary method knowing its names only; request and answer are JSON objects."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    described = pool.FindServiceByName(service).methods_by_name[method]
    asked, answered = (message_factory.GetMessageClass(kind) for kind in (described.input_type, described.output_type))
    call = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=asked.SerializeToString,
        response_deserializer=answered.FromString,
    )
    return json_format.MessageToDict(call(json_format.ParseDict(request, asked()), timeout=10))


async def test_calls_from_reflected_descriptors(door):
    """Goal: a client that knows names only finds the messages, imported files among them, and calls both services."""

    def work(channel):
        health = call_by_reflection(channel, "grpc.health.v1.Health", "Check", {})
        config = call_by_reflection(channel, "inference.GRPCInferenceService", "ModelConfig", {"name": "addsub"})
        return health, config

    health, config = await with_channel(door, work)
    assert health == {"status": "SERVING"}
    assert config["config"]["maxBatchSize"] == 8


async def test_services_as_the_client_lists_them(door):
    """Goal: the reflection client of grpcio lists every service of the port, reflection's own included."""
    listed = await with_channel(door, lambda channel: list(ProtoReflectionDescriptorDatabase(channel).get_services()))
    assert sorted(listed) == SERVICES


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_many_questions_on_one_stream(door, version):
    """Goal: answers come in order, repeat the question and its host, and go on after an error."""
    questions = [
        Request(host="here", list_services="*"),
        Request(file_by_filename="no.proto"),
        Request(file_by_filename="grpc_service.proto"),
    ]
    listed, missing, found = await ask(door, *questions, version=version)
    assert [service.name for service in listed.list_services_response.service] == SERVICES
    assert (listed.valid_host, [one.original_request for one in (listed, missing, found)]) == ("here", questions)
    assert missing.error_response.error_code == NOT_FOUND
    assert [file.name for file in files_of(found)] == ["grpc_service.proto", "model_config.proto"]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.GRPCInferenceService", "grpc_service.proto"),
        ("inference.GRPCInferenceService.ModelInfer", "grpc_service.proto"),
        ("inference.ModelInferRequest.InferInputTensor", "grpc_service.proto"),
        ("inference.ModelInferRequest.InferInputTensor.shape", "grpc_service.proto"),
        ("inference.InferParameter.parameter_choice", "grpc_service.proto"),
        ("inference.DataType", "model_config.proto"),
        ("inference.TYPE_FP32", "model_config.proto"),
        ("inference.ModelInstanceGroup.KIND_GPU", "model_config.proto"),
        ("grpc.health.v1.HealthCheckResponse.ServingStatus", "health.proto"),
        ("grpc.reflection.v1.ServerReflection", "reflection.proto"),
        ("grpc.reflection.v1alpha.ErrorResponse", "reflection_v1alpha.proto"),
    ],
)
async def test_symbols(door, symbol, file):
    """Goal: every kind of symbol leads to the file that defines it."""
    (answer,) = await ask(door, Request(file_containing_symbol=symbol))
    assert files_of(answer)[0].name == file


@pytest.mark.parametrize("symbol", ["", ".", "inference", "inference.No", "DataType", ".inference.DataType", "é" * 999])
async def test_unknown_symbols(door, symbol):
    """Goal: what is no full name of a symbol is not found, an empty one included."""
    (answer,) = await ask(door, Request(file_containing_symbol=symbol))
    assert answer.error_response.error_code == NOT_FOUND
    assert answer.error_response.error_message == f"symbol '{symbol}' is not known"


async def test_extensions(door):
    """Goal: no message here has extensions; a message that there is has an empty list of their numbers."""
    extension = {"containing_type": "inference.ModelConfig", "extension_number": 1000}
    sought, numbers, unknown = await ask(
        door,
        Request(file_containing_extension=extension),
        Request(all_extension_numbers_of_type="inference.ModelConfig"),
        Request(all_extension_numbers_of_type="inference.DataType"),
    )
    assert sought.error_response.error_code == NOT_FOUND
    assert numbers.WhichOneof("message_response") == "all_extension_numbers_response"
    assert numbers.all_extension_numbers_response.base_type_name == "inference.ModelConfig"
    assert not numbers.all_extension_numbers_response.extension_number
    assert unknown.error_response.error_code == NOT_FOUND


async def test_questions_of_no_kind(door):
    """Goal: a request without a question is refused in its answer, and the stream goes on."""
    empty, listed = await ask(door, Request(), Request(list_services=""))
    assert empty.error_response.error_code == INVALID_ARGUMENT
    assert len(listed.list_services_response.service) == len(SERVICES)


async def test_malformed_question(door):
    """Goal: bytes that are no message end the stream with INTERNAL, not the connection."""

    def work(channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([b"\x0a\xff"]), timeout=10))
        after = list(stub.ServerReflectionInfo(iter([Request(list_services="")]), timeout=10))
        return caught.value.code(), after

    code, after = await with_channel(door, work)
    assert code is grpc.StatusCode.INTERNAL
    assert len(after) == 1


def test_symbols_are_all_that_protobuf_finds():
    """Goal: the walk over the descriptors names exactly what protobuf's own parser reads out of them."""
    for file in protocol_descriptors().files.values():
        parsed = descriptor_pb2.FileDescriptorProto.FromString(file.content)
        assert (parsed.name, tuple(parsed.dependency)) == (file.name, file.dependencies)
        expected = set()
        for message in parsed.message_type:
            expected |= symbols_of(message, f"{parsed.package}.")
        for enum in parsed.enum_type:
            expected |= {f"{parsed.package}.{name}" for name in (enum.name, *(value.name for value in enum.value))}
        for service in parsed.service:
            expected.add(f"{parsed.package}.{service.name}")
            expected |= {f"{parsed.package}.{service.name}.{method.name}" for method in service.method}
        assert set(file.symbols) == expected


def symbols_of(message, scope):
    name = scope + message.name
    found = {name, *(f"{name}.{one.name}" for one in (*message.field, *message.oneof_decl))}
    for enum in message.enum_type:
        found |= {f"{name}.{one.name}" for one in (enum, *enum.value)}
    for inner in message.nested_type:
        found |= symbols_of(inner, f"{name}.")
    return found


def test_every_proto_file_is_described(checkout: Path):
    """Goal: no file of the protocol is missing from the descriptors."""
    names = {path.name for path in (checkout / "schema" / "wire" / "proto").glob("*.proto")}
    assert set(protocol_descriptors().files) == names
