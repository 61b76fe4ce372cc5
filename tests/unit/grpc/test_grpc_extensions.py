"""Classification, compressed replies, forwarded metadata, restricted RPCs, log settings and TLS over gRPC."""

from __future__ import annotations

import gzip
import logging
import random
import zlib

import grpc
import numpy as np
import pytest
import trio
import tritonclient.grpc as triton
from despina.frontends import bulk
from despina.frontends.grpc.request.call import Call
from despina.frontends.grpc.request.deflate import deflate, encoding_for
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.certificates import Certificates

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def request(model="identity", rows=1, **more):
    """One INT32 input of `rows` times 16 elements."""
    values = np.arange(rows * 16, dtype=np.int32)
    return service_pb2.ModelInferRequest(
        model_name=model,
        inputs=[{"name": "INPUT0", "datatype": "INT32", "shape": [rows, 16]}],
        raw_input_contents=[values.tobytes()],
        **more,
    )


def classes(count, **more):
    return request(outputs=[{"name": "OUTPUT0", "parameters": {"classification": {"int64_param": count}}}], **more)


async def with_stub(door, work, credentials=None):
    """Runs `work(stub)` in a thread over a channel of grpcio."""

    def run():
        options = [("grpc.max_receive_message_length", -1)]
        channel = (
            grpc.insecure_channel(door.url, options)
            if credentials is None
            else grpc.secure_channel(door.url, credentials, options)
        )
        with channel:
            return work(service_pb2_grpc.GRPCInferenceServiceStub(channel))

    with trio.fail_after(20):
        return await trio.to_thread.run_sync(run)


async def test_classes(door):
    """Goal: a ranked output is BYTES `value:index`, each row for itself, by unary call and on the stream."""
    answer = await with_stub(door, lambda stub: stub.ModelInfer(classes(2, rows=2)))
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2, 2])
    assert answer.raw_output_contents[0] == b"".join(
        len(text).to_bytes(4, "little") + text for text in (b"15:15", b"14:14", b"31:15", b"30:14")
    )
    streamed = await with_stub(door, lambda stub: next(stub.ModelStreamInfer(iter([classes(2, rows=2)]))))
    assert streamed.infer_response.raw_output_contents == answer.raw_output_contents


async def test_labels(door):
    """Goal: labels come from the model, by output."""
    door.engine.models["identity"].labels = {"OUTPUT0": [f"l{index}" for index in range(16)]}
    answer = await with_stub(door, lambda stub: stub.ModelInfer(classes(1)))
    assert answer.raw_output_contents[0][4:] == b"15:15:l15"


async def test_class_of_unranked_type(door):
    """Goal: an output without an order is refused after execution, in the protocol's words."""
    wanted = classes(1)
    wanted.inputs[0].datatype = "FP16"
    wanted.inputs[0].shape[:] = [1, 32]
    with pytest.raises(grpc.RpcError) as caught:
        await with_stub(door, lambda stub: stub.ModelInfer(wanted))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "class result not available for output due to unsupported type 'FP16'"


@pytest.mark.parametrize(
    ("level", "accept", "encoding"),
    [
        ("low", "identity,deflate,gzip", "gzip"),
        ("medium", "identity,deflate,gzip", "deflate"),
        ("high", "identity, deflate, gzip", "deflate"),
        ("high", "gzip", "gzip"),
        ("low", "deflate", "deflate"),
        ("low", "identity", ""),
        ("low", "", ""),
        ("none", "gzip", ""),
    ],
)
def test_choice_of_encoding(level, accept, encoding):
    """Goal: what the client accepts, ranked by level."""
    assert encoding_for(level, accept) == encoding


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_deflated_messages(level):
    """Goal: both encodings are what their names say."""
    assert gzip.decompress(b"".join(deflate([b"ab", memoryview(b"cd")], "gzip", level))) == b"abcd"
    assert zlib.decompress(b"".join(deflate([b"ab", memoryview(b"cd")], "deflate", level))) == b"abcd"
    large = random.Random(1).randbytes(3 << 20)
    pieces = deflate([b"ab", memoryview(large)], "deflate", level)
    assert zlib.decompress(b"".join(pieces)) == b"ab" + large
    assert max(map(len, pieces)) < 2 << 20  # each is moved while other threads wait


@pytest.mark.parametrize("rows", [1, 4000])
@pytest.mark.parametrize("level", ["low", "high"])
async def test_compressed_replies(open_door, level, rows):
    """Goal: small and large replies, unary and streamed, arrive whole and in order through grpcio."""
    door = await open_door(response_compression_level=level)
    sent = [request(rows=size, id=str(index)) for index, size in enumerate([rows, 1, rows, 1])]
    answer = await with_stub(door, lambda stub: stub.ModelInfer(sent[0]))
    assert answer.raw_output_contents == sent[0].raw_input_contents
    streamed = await with_stub(door, lambda stub: list(stub.ModelStreamInfer(iter(sent))))
    assert [one.infer_response.id for one in streamed] == ["0", "1", "2", "3"]
    assert [one.infer_response.raw_output_contents for one in streamed] == [one.raw_input_contents for one in sent]


@pytest.mark.parametrize("rows", [1, 2000])
async def test_compressed_reply_on_the_wire(open_door, rows):
    """Goal: the head names the encoding, the message is flagged, and it is smaller than the tensor."""
    door = await open_door(response_compression_level="low")
    client = await door.connect()
    data = request(rows=rows).SerializeToString()
    await client.send(client.call(1, INFER, data, grpc_accept_encoding="gzip"))
    _, _, _, block = await client.wait_for(client.HEADERS, 1)
    assert dict(client.decoder.decode(block))["grpc-encoding"] == "gzip"
    body, trailers = await client.answer(1)
    assert (body[0], trailers["grpc-status"]) == (1, "0")
    answer = service_pb2.ModelInferResponse.FromString(gzip.decompress(body[5:]))
    assert answer.raw_output_contents[0] == request(rows=rows).raw_input_contents[0]


async def test_client_that_accepts_nothing_gets_plain_replies(open_door):
    """Goal: without grpc-accept-encoding nothing is compressed."""
    door = await open_door(response_compression_level="high")
    client = await door.connect()
    await client.send(client.call(1, INFER, request().SerializeToString()))
    body, _ = await client.answer(1)
    assert body[0] == 0


async def test_cancelled_while_compressing(open_door):
    """Goal: a call that is reset amid compression is forgotten; the connection serves on."""
    door = await open_door(response_compression_level="high")
    client = await door.connect()
    await client.send(client.call(1, INFER, request(rows=10_000).SerializeToString(), grpc_accept_encoding="gzip"))
    await client.send(client.frame(client.RST, 0, 1, b"\0\0\0\x08"))
    await client.send(client.call(3, INFER, request().SerializeToString(), grpc_accept_encoding="gzip"))
    _, trailers = await client.answer(3)
    assert trailers["grpc-status"] == "0"


async def test_forwarded_metadata(open_door):
    """Goal: matching metadata reaches the request as parameters, by unary call and for every request of a stream."""
    door = await open_door(forward_pattern="^x-")
    metadata = [("x-user", "Ann"), ("other", "1")]
    answer = await with_stub(door, lambda stub: stub.ModelInfer(request(), metadata=metadata))
    assert {key: value.string_param for key, value in answer.parameters.items()} == {"x-user": "Ann"}
    streamed = await with_stub(
        door, lambda stub: list(stub.ModelStreamInfer(iter([request(), request()]), metadata=metadata))
    )
    assert [one.infer_response.parameters["x-user"].string_param for one in streamed] == ["Ann", "Ann"]


async def test_reserved_metadata(open_door):
    """Goal: metadata named as a parameter of the protocol is refused in its words; a stream goes on."""
    door = await open_door(forward_pattern="prio")
    text = "Header 'priority' is reserved for Triton usage and cannot be forwarded."
    metadata = [("priority", "1")]
    with pytest.raises(grpc.RpcError) as caught:
        await with_stub(door, lambda stub: stub.ModelInfer(request(), metadata=metadata))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)
    streamed = await with_stub(door, lambda stub: list(stub.ModelStreamInfer(iter([request()]), metadata=metadata)))
    assert [one.error_message for one in streamed] == [text]


async def test_restricted(open_door):
    """Goal: RPCs of a restricted category end with UNAVAILABLE unless key and value come; others do not ask."""
    door = await open_door(restricted={"inference": (b"triton-grpc-protocol-key", b"secret")})
    text = "This protocol is restricted, expecting header 'triton-grpc-protocol-key'"
    for metadata in ([], [("triton-grpc-protocol-key", "wrong")]):
        for call in (
            lambda stub, metadata=metadata: stub.ModelInfer(request(), metadata=metadata),
            lambda stub, metadata=metadata: list(stub.ModelStreamInfer(iter([request()]), metadata=metadata)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await with_stub(door, call)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, text)
    key = [("triton-grpc-protocol-key", "secret")]
    assert (await with_stub(door, lambda stub: stub.ModelInfer(request(), metadata=key))).model_name == "identity"
    assert (await with_stub(door, lambda stub: stub.ServerLive(service_pb2.ServerLiveRequest()))).live


async def test_response_too_large(open_door):
    """Goal: a reply beyond the limit is an error that tells both sizes."""
    door = await open_door(send_bytes_max=100)
    with pytest.raises(grpc.RpcError) as caught:
        await with_stub(door, lambda stub: stub.ModelInfer(request(rows=4)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "which exceeds gRPC's byte size limit 100." in caught.value.details()


@pytest.fixture
def level():
    ours = logging.getLogger("despina")
    before = ours.level
    yield
    ours.setLevel(before)


def log(**settings):
    return lambda stub: stub.LogSettings(service_pb2.LogSettingsRequest(settings=settings))


async def test_log_settings(door, level):
    """Goal: settings are shown and changed; every mistake has the protocol's words; earlier settings stick."""
    shown = (await with_stub(door, log())).settings
    assert {name: value.WhichOneof("parameter_choice") for name, value in shown.items()} == {
        "log_file": "string_param",
        "log_info": "bool_param",
        "log_warning": "bool_param",
        "log_error": "bool_param",
        "log_verbose_level": "uint32_param",
        "log_format": "string_param",
    }
    shown = (await with_stub(door, log(log_verbose_level={"uint32_param": 2}, log_info={"bool_param": False}))).settings
    assert (shown["log_verbose_level"].uint32_param, shown["log_info"].bool_param) == (2, False)
    for settings, code, text in (
        (
            {"log_file": {"string_param": "x"}},
            "UNIMPLEMENTED",
            "log file location can not be updated through network protocol",
        ),
        ({"log_info": {}}, "INVALID_ARGUMENT", "expect boolean for 'log_info'"),
        ({"log_verbose_level": {"bool_param": True}}, "INVALID_ARGUMENT", "expect int32 for 'log_verbose_level'"),
        ({"log_format": {"bool_param": True}}, "INVALID_ARGUMENT", "expect string for 'log_format'"),
        ({"log_format": {"string_param": "XX"}}, "INVALID_ARGUMENT", "invalid argument for log_format, got: XX"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await with_stub(door, log(log_error={"bool_param": False}, **settings))
        assert (caught.value.code().name, caught.value.details()) == (code, text)
    assert (await with_stub(door, log())).settings["log_error"].bool_param is False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates.write(tmp_path_factory.mktemp("certificates"))


def read(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("rows", [1, 4000, 60_000])
async def test_tls(open_door, certificates, rows):
    """Goal: requests below and above a record, and of 4 MB, unary and streamed, over TLS through grpcio."""
    door = await open_door(tls=certificates.settings())
    credentials = grpc.ssl_channel_credentials(read(certificates.path("root.pem")))
    sent = request(rows=rows)
    answer = await with_stub(door, lambda stub: stub.ModelInfer(sent), credentials)
    assert answer.raw_output_contents == sent.raw_input_contents
    streamed = await with_stub(door, lambda stub: list(stub.ModelStreamInfer(iter([sent] * 3))), credentials)
    assert [one.infer_response.raw_output_contents for one in streamed] == [sent.raw_input_contents] * 3


async def test_many_large_calls_at_once_over_tls(open_door, certificates):
    """Goal: interleaved frames of large messages stay apart."""
    door = await open_door(tls=certificates.settings())
    credentials = grpc.ssl_channel_credentials(read(certificates.path("root.pem")))
    sent = [request(rows=rows) for rows in (20_000, 1, 30_000, 2_000, 10_000, 1)]

    def work(stub):
        return [call.result() for call in [stub.ModelInfer.future(one) for one in sent]]

    answers = await with_stub(door, work, credentials)
    assert [one.raw_output_contents for one in answers] == [one.raw_input_contents for one in sent]


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_large_messages_move_in_turns(open_door, certificates, monkeypatch, is_encrypted):
    """Goal: when hardly anything may be moved in a pass, six clients' messages of up to 2 MB come and go whole, and all
    get their turns. Method: each pass may move 20,000 bytes, less than one read takes."""
    monkeypatch.setattr(bulk, "PASS_BYTES", 20_000)
    door = await open_door(**({"tls": certificates.settings()} if is_encrypted else {}))
    credentials = grpc.ssl_channel_credentials(read(certificates.path("root.pem"))) if is_encrypted else None
    sent = [request(rows=rows) for rows in (20_000, 1, 30_000, 2_000, 10_000, 1)]
    answers = {}

    async def ask(index):
        answers[index] = await with_stub(door, lambda stub: stub.ModelInfer(sent[index]), credentials)

    async with trio.open_nursery() as clients:
        for index in range(len(sent)):
            clients.start_soon(ask, index)
    for index, one in enumerate(sent):
        assert answers[index].raw_output_contents == one.raw_input_contents


async def test_mutual_tls_with_the_real_client(open_door, certificates):
    """Goal: tritonclient with ssl=True gets in with a certificate of the authority and not without."""
    door = await open_door(tls=certificates.settings(mutual=True))

    def live(key=None, chain=None):
        client = triton.InferenceServerClient(
            door.url,
            ssl=True,
            root_certificates=certificates.path("root.pem"),
            private_key=key,
            certificate_chain=chain,
        )
        with client:
            return client.is_server_live(client_timeout=5)

    with trio.fail_after(20):
        paths = [certificates.path(name) for name in ("client.key", "client.pem")]
        assert await trio.to_thread.run_sync(live, *paths)
        with pytest.raises(InferenceServerException, match=r"UNAVAILABLE|DEADLINE"):
            await trio.to_thread.run_sync(live)


async def test_plain_client_on_a_tls_port(open_door, certificates):
    """Goal: no TLS, no service, no hang; a silent client is closed in time."""
    door = await open_door(tls=certificates.settings(), handshake_timeout_s=0.2)
    for greeting in (True, False):
        client = await door.connect(greet=greeting)
        with trio.fail_after(5):
            assert await client.next_frame() is None


async def test_verbose_lines(door, level, caplog):
    """Goal: at verbose level 1 each call is a line, and a level set over the wire is enough for that."""
    await with_stub(door, log(log_verbose_level={"uint32_param": 1}))
    with caplog.at_level(logging.DEBUG, "despina"):
        await with_stub(door, lambda stub: stub.ModelInfer(request()))
    assert f"gRPC request: {INFER}" in caplog.messages


async def test_without_an_access_log(door):
    """Goal: no call is one that measures. Method: the call of a client that has sent its head only."""
    client = await door.connect()
    await client.send(
        client.frame(client.HEADERS, 4, 1, client.block(INFER)) + client.frame(client.PING, 0, 0, b"12345678")
    )
    with trio.fail_after(5):
        await client.wait_for(client.PING)
    (connection,) = door.server.connections.values()
    assert [type(call) for call in connection.calls.values()] == [Call]
