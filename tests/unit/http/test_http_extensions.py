"""Compressed replies, forwarded headers and log settings over HTTP."""

import gzip
import json
import zlib

import pytest
import trio
from despina.frontends.http.handler.compression import INLINE_BYTES_MAX, coding_for


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate, br", b"gzip"),
        (b"deflate, gzip", b"deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate"),
        (b"gzip ; q=0.9 , deflate;q = 0.8", b"gzip"),
        (b"gzip;q=0", None),
        (b"gzip;q=0, deflate;q=0.1", b"deflate"),
        (b"identity, gzip", None),
        (b"identity;q=0.2, gzip;q=0.3", b"gzip"),
        (b"identity;q=0.3, gzip;q=0.3", None),
        (b"GZIP", None),
        (b"*", None),
        (b"br", None),
        (b"", None),
        (b"gzip;q=x, deflate;q=0.1", b"deflate"),
        (b"gzip;q=nan, deflate", b"deflate"),
        (b",;,=;q", None),
    ],
)
def test_choice_of_coding(accept, coding):
    """Goal: the highest weight wins, the first of equal ones; 0, unknown names and other cases never do."""
    assert coding_for(accept) == coding


@pytest.mark.parametrize("rows", [1, 1 + INLINE_BYTES_MAX // 128])
@pytest.mark.parametrize(("coding", "plain"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
async def test_compressed_reply(door, infer_bytes, rows, coding, plain):
    """Goal: the body is compressed as a whole, small (inline) and large (in a thread); the JSON's length is that before
    compression."""
    usual = await door.ask(infer_bytes(rows=rows))
    reply = await door.ask(infer_bytes(b"Accept-Encoding: %b\r\n" % coding.encode(), rows=rows))
    assert (reply.status, reply.headers["content-encoding"]) == (200, coding)
    assert plain(reply.body) == usual.body
    for header in ("inference-header-content-length", "content-type"):
        assert reply.headers[header] == usual.headers[header]


async def test_client_leaves_while_its_reply_is_compressed(door, infer_bytes):
    """Goal: a reply for nobody goes nowhere, and the next client is served."""
    client = await door.connect()
    await client.send(infer_bytes(b"Accept-Encoding: gzip\r\n", rows=4000))
    client.reset()
    assert (await door.ask(infer_bytes(b"Accept-Encoding: gzip\r\n"))).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n",
        b"POST /v2/models/addsub/infer HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_only_successful_inference_is_compressed(door, request_bytes):
    """Goal: metadata and errors never are."""
    reply = await door.ask(request_bytes)
    assert "content-encoding" not in reply.headers
    assert isinstance(json.loads(reply.body), dict)


async def test_forwarded_headers(open_door, infer_bytes):
    """Goal: matching headers reach the request as parameters, with the names as received."""
    door = await open_door(forward_pattern="^x-")
    seen = []
    model = door.engine.models["addsub"]
    submit = model.submit
    model.submit = lambda request, *rest: seen.append(request.parameters) or submit(request, *rest)
    client = await door.connect()
    for _ in range(2):  # the second head is remembered, not parsed
        await client.ask(infer_bytes(b"X-User: Ann\r\nx-user: Bob\r\nOther: 1\r\nX-Byte: \xe9\r\n"))
    assert seen == [{"X-User": "Ann", "x-user": "Bob", "X-Byte": "\ufffd"}] * 2


async def test_reserved_header_is_refused(open_door, infer_bytes):
    """Goal: the protocol's words, status 400."""
    door = await open_door(forward_pattern=".*")
    reply = await door.ask(infer_bytes(b"priority: 3\r\n"))
    assert reply.status == 400
    assert json.loads(reply.body) == {
        "error": "Header 'priority' is reserved for Triton usage and cannot be forwarded."
    }


def post(body):
    return b"POST /v2/logging HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


SHOWN = (
    '{"log_file":"","log_info":true,"log_warning":true,"log_error":true,"log_verbose_level":0,"log_format":"default"}'
)


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        (b"{}", 200, SHOWN),
        (b'{"bogus":1,"log_info":null,"log_file":null}', 200, SHOWN),
        (b'{"log_file":"x"}', 501, '{"error":"log file location can not be updated through network protocol"}'),
        (b'{"log_info":1}', 500, '{"error":"attempt to access JSON non-boolean as boolean"}'),
        (
            b'{"log_verbose_level":-1}',
            500,
            '{"error":"attempt to access JSON non-unsigned-integer as unsigned-integer"}',
        ),
        (b'{"log_format":"XX"}', 503, '{"error":"invalid argument for --log_format, got: XX"}'),
        (b'{"log_format":1}', 500, '{"error":"attempt to access JSON non-string as string"}'),
        (b"", 500, '{"error":"failed to parse the request JSON buffer: The document is empty. at 0"}'),
    ],
)
async def test_log_settings(door, body, status, answer):
    """Goal: every row of the protocol's table, and that a refused change changes nothing."""
    reply = await door.ask(post(body))
    assert (reply.status, reply.headers["content-type"], reply.body.decode()) == (status, "application/json", answer)
    assert (await door.ask(b"GET /v2/logging HTTP/1.1\r\nHost: h\r\n\r\n")).body.decode() == SHOWN


async def test_earlier_log_settings_stick(door):
    """Goal: settings before the refused one hold."""
    with trio.fail_after(5):
        await door.ask(post(b'{"log_format":"XX","log_warning":false}'))
        shown = json.loads((await door.ask(post(b"{}"))).body)
    assert shown["log_warning"] is False
