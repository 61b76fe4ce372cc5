"""What each route answers, in the protocol's words, statuses and member order."""

import gzip
import logging
import zlib
from base64 import b64encode

import orjson
import pytest
import trio
from despina.engine.port.buffers import BufferPool
from despina.schema.fault import InvalidArgument, ModelFailure, QueueFull


def get(path):
    return b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode()


def post(path, body=b"", extra=b""):
    return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n%b\r\n%b" % (path.encode(), len(body), extra, body)


ANSWERS = [
    ("/v2/health/live", 200, "text/plain", ""),
    ("/v2/health/ready", 200, "text/plain", ""),
    ("/v2", 200, "application/json", '{"name":"triton","version":"2.0","extensions":["statistics","logging"]}'),
    ("/v2/models/addsub/ready", 200, "text/plain", ""),
    ("/v2/models/addsub/versions/1/ready", 200, "text/plain", ""),
    (
        "/v2/models/addsub/versions/1",
        200,
        "application/json",
        '{"name":"addsub","versions":["1"],"platform":"onnxruntime_onnx",'
        '"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[-1,16]}],"outputs":[]}',
    ),
    ("/v2/models/no", 404, "application/json", '{"error":"Request for unknown model: \'no\' is not found"}'),
    ("/v2/models/no/ready", 400, "text/plain", '{"error":"Model version not ready"}'),
    ("/v2/models/a%64d", 404, "application/json", '{"error":"Request for unknown model: \'a%64d\' is not found"}'),
    (
        "/v2/models/addsub/versions/0/config",
        404,
        "application/json",
        '{"error":"Request for unknown model: \'addsub\' version 0 is not found"}',
    ),
    (
        "/v2/models/addsub/versions/9223372036854775808",
        400,
        "application/json",
        '{"error":"failed to get model version from specified version string \'9223372036854775808\' (details: stol), '
        'version should be an integral value > 0"}',
    ),
    ("/v2/models/addsub/versions/1a", 404, "text/plain", '{"error":"Not Found"}'),
    ("/v2/models/addsub/versions/-1/stats", 404, "text/plain", '{"error":"Not Found"}'),
    ("/v2/models/no/stats", 400, "application/json", '{"error":"requested model \'no\' is not available"}'),
    ("/v2/", 404, "text/plain", '{"error":"Not Found"}'),
    ("/", 404, "text/plain", '{"error":"Not Found"}'),
    ("/v2/models/addsub/infer", 405, "text/plain", '{"error":"Method Not Allowed"}'),
    ("/v2/repository/index", 405, "application/json", '{"error":"Method Not Allowed"}'),
    ("/v2/repository/models/m/load", 405, "application/json", '{"error":"Method Not Allowed"}'),
    ("/v2/models/m/versions/1/trace/setting", 404, "text/plain", '{"error":"Not Found"}'),
    ("/v2/systemsharedmemory/status", 200, "application/json", "[]"),
    (
        "/v2/cudasharedmemory/region/r/status",
        404,
        "application/json",
        '{"error":"Unable to find cuda shared memory region: \'r\'"}',
    ),
]


@pytest.mark.parametrize(("path", "status", "content_type", "body"), ANSWERS)
async def test_answers_to_get(door, path, status, content_type, body):
    """Status, content type and the exact body."""
    reply = await door.ask(get(path))
    assert (reply.status, reply.headers["content-type"], reply.body.decode()) == (status, content_type, body)
    assert len(reply.headers) == 2


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"])
async def test_wrong_methods(door, method):
    """405 with its odd reason phrase; the connection goes on."""
    client = await door.connect()
    for _ in range(2):
        reply = await client.ask(method + b" /v2/health/live HTTP/1.1\r\n\r\n")
        assert reply.line == "HTTP/1.1 405 Not Allowed"
        assert reply.body == b'{"error":"Method Not Allowed"}'


async def test_health_while_not_ready_and_while_exiting(door):
    """400 with what is not ready; 503 with a text while exiting."""
    door.engine.ready = False
    reply = await door.ask(get("/v2/health/ready"))
    assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
    assert reply.body == b'{"ready":false,"not_ready":["model \'m\' version 1 is LOADING"]}'
    reply = await door.ask(get("/v2/models/addsub/ready"))
    assert (reply.status, reply.body) == (400, b'{"error":"Model version not ready"}')
    door.engine.is_stopping = True
    for path in ("/v2/health/live", "/v2/health/ready"):
        reply = await door.ask(get(path))
        assert (reply.status, reply.body) == (503, b'{"error":"Server exiting"}')


async def test_configuration(door):
    """Every field, in the order of declaration."""
    config = orjson.loads((await door.ask(get("/v2/models/addsub/config"))).body)
    assert list(config)[:4] == ["name", "platform", "backend", "runtime"]
    assert config["max_batch_size"] == 8


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/addsub/stats", "/v2/models/addsub/versions/1/stats"])
async def test_statistics(door, path):
    """Member order and all members, also those that are not set."""
    body = (await door.ask(get(path))).body
    (model,) = orjson.loads(body)["model_stats"]
    assert list(model) == [
        "name",
        "version",
        "last_inference",
        "inference_count",
        "execution_count",
        "inference_stats",
        "response_stats",
        "batch_stats",
        "memory_usage",
    ]
    stats = model["inference_stats"]
    assert list(stats)[-2:] == ["cache_hit", "cache_miss"]
    assert len(stats) == 8
    assert stats["success"] == {"count": 3, "ns": 900}
    assert stats["cache_hit"] == {"count": 0, "ns": 0}
    assert body.count(b'"batch_stats":[{"batch_size":1,"compute_input":{"count":0,"ns":0},"compute_infer":') == 1


async def test_repository_index(door):
    """Empty members are left out; `ready` keeps the ready ones; its type is checked."""
    whole = (
        b'[{"name":"addsub","version":"1","state":"READY"},{"name":"never"},'
        b'{"name":"was","version":"1","state":"UNAVAILABLE","reason":"unloaded"}]'
    )
    assert (await door.ask(post("/v2/repository/index"))).body == whole
    assert (await door.ask(post("/v2/repository/any/index", b"{}"))).body == whole
    assert (await door.ask(post("/v2/repository/index", b'{"ready":true}'))).body == whole[: whole.index(b",{")] + b"]"
    reply = await door.ask(post("/v2/repository/index", b'{"ready":1}'))
    assert (reply.status, reply.body) == (500, b'{"error":"attempt to access JSON non-boolean as boolean"}')
    assert (await door.ask(post("/v2/repository/index", b"{"))).status == 500
    assert (await door.ask(post("/v2/repository/index", b"[" * 100_000))).status in (400, 500)


async def test_load_and_unload(door):
    """Parameters reach the engine; bad ones are refused in the protocol's words."""
    load, unload = "/v2/repository/models/m/load", "/v2/repository/models/m/unload"
    content = b64encode(b"\0model").decode()
    body = orjson.dumps({"parameters": {"config": "{}", "file:1/model.onnx": content}})
    for request in (post(load), post(load, b"{}"), post(load, body), post(unload)):
        reply = await door.ask(request)
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"", "application/json")
    await door.ask(post(unload, b'{"parameters":{"unload_dependents":true}}'))
    await door.ask(post(unload, b'{"parameters":{"unload_dependents":1}}'))
    assert door.engine.commands == [
        ("load", "m", None, None),
        ("load", "m", None, None),
        ("load", "m", "{}", {"1/model.onnx": b"\0model"}),
        ("unload", "m", False),
        ("unload", "m", True),
        ("unload", "m", False),
    ]
    for parameters, status, text in [
        ('{"config":{}}', 500, "attempt to access JSON non-string as string"),
        ('{"other":"x"}', 500, "unexpected error on creating Triton parameter"),
        ('{"file:x":"***"}', 500, "load parameter 'file:x' is not base64"),
        ('"x"', 500, "attempt to get members for non-object"),
    ]:
        reply = await door.ask(post(load, b'{"parameters":%b}' % parameters.encode()))
        assert reply.status == status
        assert text in reply.body.decode()
    reply = await door.ask(post("/v2/repository/r/models/m/load"))
    assert (reply.status, reply.body) == (501, b'{"error":"\'repository_name\' specification is not supported"}')
    door.engine.load_fault = InvalidArgument("load failed for model 'm'")
    reply = await door.ask(post(load))
    assert (reply.status, reply.body) == (400, b'{"error":"load failed for model \'m\'"}')


async def test_a_slow_load_holds_nobody_up(door):
    """While a load waits, other connections are served and its own answers in order."""
    door.engine.load_gate = trio.Event()
    client = await door.connect()
    await client.send(post("/v2/repository/models/m/load") + get("/v2"))
    assert (await door.ask(get("/v2/health/live"))).status == 200
    door.engine.load_gate.set()
    assert (await client.reply()).body == b""
    assert (await client.reply()).body.startswith(b'{"name"')


async def test_infer_answers(door, infer_bytes):
    """Binary in, binary out; JSON in, JSON out."""
    reply = await door.ask(infer_bytes())
    assert reply.headers["content-type"] == "application/octet-stream"
    head = orjson.loads(reply.body[: int(reply.headers["inference-header-content-length"])])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 64}
    tensor = b'{"name":"IN","shape":[2],"datatype":"FP32","data":[0.5,2]}'
    reply = await door.ask(post("/v2/models/identity/versions/1/infer", b'{"id":"q","inputs":[%b]}' % tensor))
    assert reply.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in reply.headers
    assert reply.body == (
        b'{"id":"q","model_name":"identity","model_version":"1",'
        b'"outputs":[{"name":"OUT","datatype":"FP32","shape":[2],"data":[0.5,2.0]}]}'
    )


async def test_infer_faults(door, infer_bytes):
    """Which fault wins, its status, and its content type."""

    async def ask(request):
        reply = await door.ask(request)
        return reply.status, reply.headers["content-type"], orjson.loads(reply.body)["error"]

    text, json = "text/plain", "application/json"
    path = "/v2/models/addsub/infer"
    assert await ask(post("/v2/models/no/infer", b"{")) == (404, text, "Request for unknown model: 'no' is not found")
    assert await ask(post("/v2/models/stream/infer", b"{")) == (
        501,
        text,
        "HTTP end point doesn't support models with decoupled transaction policy",
    )
    assert await ask(post(path, b"{}", b"Inference-Header-Content-Length: 3\r\n")) == (
        400,
        text,
        "inference header size should be in range (0, 2), got: 3",
    )
    assert await ask(post(path, b"{}", b"Inference-Header-Content-Length: x\r\n")) == (
        400,
        text,
        "Unable to parse Inference-Header-Content-Length, got: x",
    )
    assert (await ask(post(path, b"{")))[:2] == (500, json)
    assert (await ask(post(path, b"[" * 100_000)))[1] == json
    assert (await ask(post(path, b"{}")))[2] == (
        "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"
    )
    model = door.engine.models["addsub"]
    model.refusal = QueueFull("Exceeds maximum queue size")
    assert await ask(infer_bytes()) == (503, json, "Exceeds maximum queue size")
    model.refusal = None
    model.fault = ModelFailure("it broke")
    assert await ask(infer_bytes()) == (500, text, "it broke")


async def test_unknown_encodings(door):
    """501 with the encodings that the protocol knows."""
    reply = await door.ask(post("/v2/models/addsub/infer", b"{}", b"Content-Encoding: br\r\n"))
    assert (reply.status, reply.body) == (501, b'{"error":"Unsupported compression type"}')
    assert reply.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"identity", b""])
@pytest.mark.parametrize("size", [4, 10_000_000])
async def test_compressed_requests(door, encoding, size):
    """Raw bodies of any size, in either format under either name."""
    plain = b"abcd" * (size // 4)
    path, fields = "/v2/models/identity/infer", b"Inference-Header-Content-Length: 0\r\n"
    fields += b"Content-Encoding: " + encoding + b"\r\n"
    compressed = [gzip.compress(plain, 1), zlib.compress(plain, 1)] if encoding in (b"gzip", b"deflate") else [plain]
    for body in compressed:
        client = await door.connect()
        await client.send(post(path, body, fields))
        reply = await client.reply()
        assert reply.status == 200
        assert reply.body.endswith(plain)


async def test_compressed_requests_that_are_damaged(open_door):
    """Nothing, garbage, half a stream, and bombs small and large: 400, each with its reason."""
    door = await open_door(json_bytes_max=1_000_000)
    for body, text in [
        (b"", "nothing to be decompressed"),
        (b"garbage", "unable to decompress the request body"),
        (gzip.compress(b"abcd" * 1000)[:-20], "unable to decompress the request body: it ends too early"),
        (gzip.compress(bytes(1_000_001)), "Decompressed data size exceeds the maximum allowed value of 1000000 bytes"),
        (zlib.compress(bytes(100_000_000)), "Decompressed data size exceeds the maximum allowed value of 1000000"),
    ]:
        reply = await door.ask(post("/v2/models/identity/infer", body, b"Content-Encoding: gzip\r\n"))
        assert (reply.status, reply.headers["content-type"]) == (400, "text/plain")
        assert text in reply.body.decode()


async def test_a_client_that_leaves_while_its_body_is_inflated(door):
    """Nothing is submitted for it."""
    body = gzip.compress(bytes(60_000_000), 1)
    client = await door.connect()
    fields = b"Content-Encoding: gzip\r\nInference-Header-Content-Length: 0\r\n"
    model = door.engine.models["identity"]
    model.refusal = AssertionError("submitted")
    await client.send(post("/v2/models/identity/infer", body, fields))
    client.reset()
    await door.until(lambda: not door.listener.connections)
    model.refusal = None
    assert (await door.ask(get("/v2"))).status == 200


async def test_a_handler_that_breaks_is_a_500_without_a_traceback(door, infer_bytes, caplog):
    """A programming error in the engine: the log has it, the client a line, and the door stays open."""
    door.engine.models["addsub"].refusal = RuntimeError("secret")
    reply = await door.ask(infer_bytes())
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert "secret" in caplog.text
    assert (await door.ask(get("/v2"))).status == 200


async def test_restricted_apis(open_door):
    """403 without the header or with a wrong value, before the method is looked at; other routes stay open."""
    door = await open_door(restricted={"inference": (b"x-key", b"secret"), "model-repository": (b"x-key", b"s")})
    expected = b'{"error":"This API is restricted, expecting header \'x-key\'"}'
    for request in (
        get("/v2/models/addsub/infer"),
        post("/v2/models/addsub/infer", b"", b"X-Key: wrong\r\n"),
        post("/v2/repository/index"),
    ):
        reply = await door.ask(request)
        assert (reply.status, reply.headers["content-type"], reply.body) == (403, "text/plain", expected)
    assert (await door.ask(post("/v2/models/addsub/infer", b"{}", b"X-KEY: secret\r\n"))).status == 500
    assert (await door.ask(get("/v2"))).status == 200


async def test_access_log(door, caplog):
    """The protocol's line, with the method's number."""
    with caplog.at_level(logging.DEBUG, "despina.http"):
        await door.ask(get("/v2/health/live?x=1"))
        await door.ask(post("/v2/models/addsub/infer"))
        await door.ask(b"PUT /v2 HTTP/1.1\r\n\r\n")
    assert [record.message for record in caplog.records if "request:" in record.message] == [
        "HTTP request: 0 /v2/health/live",
        "HTTP request: 2 /v2/models/addsub/infer",
        "HTTP request: 3 /v2",
    ]


async def test_the_memory_of_paths_is_bounded(door):
    """Thousands of different paths leave no trace beyond the bound."""
    client = await door.connect()
    for start in range(0, 3000, 100):
        await client.send(b"".join(get(f"/v2/models/m{start + index}") for index in range(100)))
        for _ in range(100):
            assert (await client.reply()).status == 404
    router = door.listener.handle.__self__
    assert len(router._matches) <= 1024


def test_buffer_pool():
    """Buffers come back only unshared, within the bound, and go when unused."""
    pool = BufferPool(bytes_max=1 << 20)
    first = pool.take(200_000)
    view = first.data[:10]
    address = first.ctypes.data
    pool.give(first)
    del first
    assert pool.kept_bytes == 229_376
    assert pool.take(200_000).ctypes.data != address
    del view
    again = pool.take(220_000)
    assert again.ctypes.data == address
    assert pool.kept_bytes == 0
    pool.give(pool.take(2 << 20))
    assert pool.kept_bytes == 0
    assert len(pool.take(1000)) == 1000
    pool.give(again)
    assert not pool.trim()
    assert pool.kept_bytes == 229_376
    assert pool.trim()
    assert pool.kept_bytes == 0


def test_buffer_pool_keeps_what_is_needed():
    """Of four buffers given back after a rush the two that a steady trickle takes stay, the others go."""
    pool = BufferPool(bytes_max=1 << 20)
    for array in [pool.take(200_000) for _ in range(4)]:
        pool.give(array)
    del array
    pool.trim()
    for _ in range(3):
        for array in [pool.take(200_000) for _ in range(2)]:
            pool.give(array)
    del array
    assert pool.kept_bytes == 4 * 229_376
    assert not pool.trim()
    assert pool.kept_bytes == 2 * 229_376


@pytest.mark.parametrize(
    ("bodies", "expected"), [(False, [b"", b""]), (True, [b'{"live":true}', b'{"ready":true,"not_ready":[]}'])]
)
async def test_health_in_words(open_door, bodies, expected):
    """Goal: empty bodies, as the reference server's, or what the Open Inference Protocol has; statuses are the same."""
    door = await open_door(health_bodies=bodies)
    for path, body in zip((b"live", b"ready"), expected, strict=True):
        reply = await door.ask(b"GET /v2/health/%b HTTP/1.1\r\nHost: h\r\n\r\n" % path)
        assert (reply.status, reply.body) == (200, body)
        assert (reply.headers["content-type"] == "application/json") == bodies
