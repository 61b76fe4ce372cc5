"""What is remembered of the texts that clients send has bounds: so many entries, and so many bytes of all of them."""

import gc
import json
import random
import tracemalloc
from contextlib import contextmanager

import hpack
import pytest
from despina.frontends.grpc.request.head import HeadReader, Meanings
from despina.frontends.grpc.wire import reply
from despina.frontends.http import HttpSettings
from despina.frontends.http.connection.head import HeadReader as HttpHeadReader
from despina.frontends.http.handler import compression
from despina.frontends.http.handler.handlers import routes_of
from despina.frontends.http.handler.router import Router
from despina.frontends.log_settings import LogSettings
from despina.schema import kserve_grpc, kserve_grpc_plain, kserve_http, kserve_http_reply
from despina.schema.infer_head import ReplyFormat
from despina.schema.inference import InferenceResponse
from despina.schema.tensor import Tensor
from tritonclient.grpc import service_pb2

from fuzz.echo import EchoEngine
from tests.repeated_calls import forget_texts

MIB = 1 << 20


@contextmanager
def remembering(bytes_max):
    """No more than this may be there afterwards that was not there before."""
    forget_texts()
    gc.collect()
    tracemalloc.start()
    try:
        yield
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        forget_texts()
    assert kept < bytes_max, f"{kept / MIB:.1f} MiB are kept"


def sizes(count, largest):
    """Some small, some at a bound, some beyond every bound."""
    dice = random.Random(count)
    return [dice.choice((10, 120, 250, 500, 1000, largest)) for _ in range(count)]


def test_accepted_encodings():
    with remembering(MIB / 4):
        for index, size in enumerate(sizes(1500, 30_000)):
            assert compression.coding_for(b"%d%b,gzip" % (index, b"x" * size)) == b"gzip"
        assert compression._remembered_coding.cache_info().currsize == 256


def test_messages_of_grpc():
    with remembering(MIB):
        for index, size in enumerate(sizes(1500, 30_000)):
            text = f"{index}" + "x" * size
            assert text[:50].encode() in reply.trailers(3, text)
        assert reply._remembered_trailers.cache_info().currsize == 256


def http_head(index, size):
    tensor = {"name": "A", "datatype": "INT8", "shape": [1], "parameters": {"binary_data_size": 1}}
    if index % 3 == 0:
        return {"inputs": [tensor], "parameters": {f"{index}.{place}": 1 for place in range(size // 16)}}
    if index % 3 == 1:
        return {"inputs": [tensor], "outputs": [{"name": f"{index}.{place}"} for place in range(size // 24)]}
    return {"inputs": [{**tensor, "shape": [1] * (size // 3)}], "id": f"\n{index}"}


def test_heads_of_http_requests():
    with remembering(2 * MIB):
        for index, size in enumerate(sizes(600, 20_000)):
            text = json.dumps(http_head(index, size)).encode()
            assert kserve_http.decode_infer(text + b"x", len(text), "m", -1)
        assert 0 < len(kserve_http._frames) <= 1024


def test_heads_of_http_connections():
    """One reader serves all connections of a server."""
    reader = HttpHeadReader(HttpSettings())
    with remembering(2 * MIB):
        for index, size in enumerate(sizes(6000, 20_000)):
            line = b"POST /%d%b HTTP/1.1" % (index, b"p" * (size if index % 3 == 0 else 1))
            fields = b"X-%d: %b\r\nContent-Length: %d" % (index, b"v" * (size if index % 3 == 1 else 1), index)
            text = b"%b\r\n%b\r\n\r\n" % (line, fields)
            assert reader.read(text).length == index
            assert reader.read(text).length == index
        assert 0 < len(reader._heads) <= 256
        assert 0 < len(reader._forms) <= 256
        del reader


def test_requests_of_grpc():
    with remembering(2 * MIB):
        for index, size in enumerate(sizes(800, 20_000)):
            message = service_pb2.ModelInferRequest(model_name="m", id=f"{index}" + "i" * (index % 250))
            many = index % 2 == 0
            for place in range(110 if many else 1):
                shape = [1] if many or index % 3 else [1] * size
                name = f"{place}" if many else f"{index}" + "N" * (0 if index % 3 == 0 else size)
                message.inputs.add(name=name, datatype="INT8", shape=shape)
                message.raw_input_contents.append(b"x" * (1 + index % 7))
            message.outputs.add(name=f"{index}" + "o" * (size if index % 5 == 0 else 1))
            data = message.SerializeToString()
            for _ in range(2):
                assert kserve_grpc_plain.read_plain_request(data) is not None
        assert 0 < len(kserve_grpc_plain._forms) <= 512


def test_unusual_inputs_of_grpc():
    with remembering(MIB):
        for index, size in enumerate(sizes(3000, 20_000)):
            message = service_pb2.ModelInferRequest(model_name="m")
            message.inputs.add(name=f"{index}" + "N" * size).parameters["p"].int64_param = 1
            message.raw_input_contents.append(b"x")
            assert kserve_grpc_plain.read_plain_request(message.SerializeToString()) is None
        assert 0 < len(kserve_grpc_plain._forms) <= 512


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_outputs(door):
    """Models may name and shape their outputs by what a client has sent."""
    with remembering(2 * MIB):
        for index, size in enumerate(sizes(3000, 20_000)):
            tensor = Tensor(f"{index}" + "O" * size, "INT8", (1, index), bytes(index))
            response = InferenceResponse(f"m{index}" + "m" * size, "1", [tensor])
            if door == "http":
                kserve_http_reply.encode_infer(response, ReplyFormat(binary_default=True))
            else:
                kserve_grpc.write_response(response)
        module = kserve_http_reply if door == "http" else kserve_grpc
        for memo in (module._openings, module._greetings):
            assert 0 < len(memo) <= 1024


@pytest.mark.parametrize("kind", ["literal", "expanding"])
def test_header_blocks_of_one_connection(kind):
    """Goal: neither long blocks nor short ones that say much fill the memory, and ordinary ones are remembered."""
    reader = HeadReader(Meanings({}, {}), 64 * 1024)
    first = reader.read(hpack.Encoder().encode([(":method", "POST"), ("x-long", "y" * 3000)]))
    assert first.field("x-long")
    blocks = []
    for index in range(500):
        size = index % 7 + 1
        # Name by name literal, never to be indexed; its value is long, or the table's entry comes again and again.
        field = b"\x10\x06%06d" % index
        if kind == "literal":
            blocks.append(field + reply._integer(5000 * size, 7, 0) + b"v" * (5000 * size))
        else:
            blocks.append(b"\xbe" * (3 * size) + field + b"\x01v")
    with remembering(MIB):
        for block in blocks:
            head = reader.read(block)
            assert head.field(f"{blocks.index(block):06}")
            assert reader.read(block).fields == head.fields
    assert len(reader._known) <= 64
    assert any(reader._known) == (kind == "expanding")


def test_what_heads_mean():
    """Goal: paths and content types that nobody knows are forgotten again, and long ones not remembered at all."""
    reader = HeadReader(Meanings({}, {}), 64 * 1024)
    blocks = [
        hpack.Encoder().encode([(":method", "POST"), (":path", f"/{index}" + "p" * size), ("x-own", f"{index}")])
        for index, size in enumerate(sizes(1500, 20_000))
    ]
    with remembering(2 * MIB):
        for block in blocks:
            assert reader.read(block).refusal is not None
    assert 0 < len(reader._meanings._known) <= 256


async def test_paths(nursery):
    engine = EchoEngine()
    router = Router(engine, routes_of(engine, HttpSettings(), LogSettings(), nursery), HttpSettings(), nursery)
    with remembering(3 * MIB):
        for index, size in enumerate(sizes(1500, 2_000)):
            assert router._match(b"/v2/models/%d%b" % (index, b"m" * size)) is not None
        assert 0 < len(router._matches) <= 1024
