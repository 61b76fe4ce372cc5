"""What arrives on a connection, byte by byte: good requests in every shape, and everything that must be refused."""

import gc

import pytest
import trio
from despina.frontends.http.connection.receiver import RECEIVE_BYTES

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"


def chunked_of(request, size):
    """The same request with its body in chunks of `size` bytes."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    chunks = [b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size)]
    return b"\r\n".join(lines) + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"


def body_of(size):
    """A raw identity request with `size` bytes."""
    head = (
        b"POST /v2/models/identity/infer HTTP/1.1\r\nInference-Header-Content-Length: 0\r\nContent-Length: %d\r\n\r\n"
    )
    return head % size + bytes(range(256)) * (size // 256) + b"x" * (size % 256)


async def test_reply_head_is_the_protocols(door):
    """A health answer is compared byte for byte: no Server, no Date."""
    client = await door.connect()
    await client.send(b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert await client.ended() == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


async def test_one_connection_serves_many_requests(door, infer_bytes):
    """Keep-alive: heads that repeat and heads that differ alternate on one connection."""
    client = await door.connect()
    for rows in (1, 1, 2, 1, 3):
        reply = await client.ask(infer_bytes(rows=rows))
        assert reply.status == 200
        assert (
            int(reply.headers["content-length"]) - int(reply.headers["inference-header-content-length"]) == rows * 128
        )
        assert (await client.ask(GET)).status == 200


async def test_pipelined_requests_are_answered_in_order(door, infer_bytes):
    """400 requests in one go, of three kinds."""
    client = await door.connect()
    missing = b"GET /v2/nothing HTTP/1.1\r\n\r\n"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, (infer_bytes() + GET + missing) * 400)
        for _ in range(400):
            assert [(await client.reply()).status for _ in range(3)] == [200, 200, 404]


async def test_a_client_far_ahead_is_no_longer_read(open_door, infer_bytes):
    """Back-pressure: while the first request is held, only a bounded part of what follows is taken in."""
    door = await open_door(pipelined_bytes_max=4096)
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    sent = 0
    request = infer_bytes()
    await client.send(request)
    await door.until(lambda: model.waiting)
    with trio.move_on_after(0.2):
        while sent < 100_000_000:
            await client.send(request * 100)
            sent += 100
    assert sent < 100_000
    (connection,) = door.listener.connections.values()
    assert connection._ahead() <= 4096 + RECEIVE_BYTES
    model.is_held = False
    model.release()
    for _ in range(sent + 1):
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("size", [300_000, 5_000_000], ids=["moved by the loop", "moved by the carrier"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["whole", "chunked"])
async def test_a_large_request_that_was_sent_far_ahead(door, size, is_chunked):
    """Goal: it is read to its end. Method: it is sent while the one before it is held, and only in part taken in."""
    model = door.engine.models["identity"]
    model.is_held = True
    client = await door.connect()
    await client.send(body_of(1))
    await door.until(lambda: model.waiting)
    (connection,) = door.listener.connections.values()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, chunked_of(body_of(size), 100_000) if is_chunked else body_of(size))
        await door.until(lambda: connection._ahead() > door.listener.settings.pipelined_bytes_max)
        model.is_held = False
        model.release()
        assert (await client.reply()).status == 200
        with trio.fail_after(60):
            reply = await client.reply()
    assert reply.status == 200
    assert len(reply.body) > size


async def test_dribbled_bytes_make_a_request(door, infer_bytes):
    """One byte at a time, Content-Length and chunked."""
    client = await door.connect()
    for request in (infer_bytes(), chunked_of(infer_bytes(), 50), GET):
        for index in range(len(request)):
            await client.send(request[index : index + 1])
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 131071, 131072, 300_000, 5_000_000])
async def test_bodies_of_every_size_come_back(door, size):
    """Raw identity requests around every threshold, twice each on one connection, checked byte for byte."""
    client = await door.connect()
    request = body_of(size)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, request)
            reply = await client.reply()
        assert reply.status == 200
        if size:
            assert reply.body.endswith(request[-size:])
            assert len(reply.body) == size + int(reply.headers["inference-header-content-length"])


async def test_recycled_buffers_never_change_a_tensor_in_use(door):
    """The tensors of a held request keep their bytes while later bodies of the same size arrive."""
    model = door.engine.models["identity"]
    model.is_held = True
    first, second = await door.connect(), await door.connect()
    size = 200_000
    await first.send(b"".join([body_of(size)[:-size], b"a" * size]))
    await door.until(lambda: model.waiting)
    model.is_held = False
    view = model.waiting[0].request.inputs[""].memory()
    for _ in range(3):
        await second.send(body_of(size))
        await second.reply()
    assert bytes(view) == b"a" * size
    model.release()
    assert (await first.reply()).body.endswith(b"a" * size)


async def test_buffers_are_used_again(door):
    """Ten large bodies one after the other need few buffers."""
    client = await door.connect()
    for _ in range(10):
        await client.send(body_of(200_000))
        await client.reply()
        gc.collect()
    assert 0 < door.listener.buffers.kept_bytes <= 3 * 262_144


@pytest.mark.parametrize("size", [1, 7, 100, 100_000])
async def test_chunked_uploads(door, infer_bytes, size):
    """Chunk sizes from one byte up, followed by another request in the same bytes."""
    client = await door.connect()
    await client.send(chunked_of(infer_bytes(), size) + GET)
    assert (await client.reply()).status == 200
    assert (await client.reply()).status == 200


async def test_chunk_extensions_and_trailers_are_skipped(door):
    """Extensions on every chunk and two trailers."""
    client = await door.connect()
    await client.send(
        b"POST /v2/repository/index HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b'9;a=b\r\n{"ready":\r\n005 ; c\r\ntrue}\r\n0;last\r\nX-A: b\r\nX-C: d\r\n\r\n' + GET
    )
    assert b"never" not in (await client.reply()).body
    assert (await client.reply()).status == 200


async def test_very_many_chunks_of_one_byte(door, open_door):
    """Refused at the protocol's limit; taken, in linear time, where the limit allows it."""
    one = b"1\r\n \r\n"
    head = b"POST /v2/repository/index HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = await door.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, head + one * 65537 + b"0\r\n\r\n")
        reply = await client.reply()
    assert reply.status == 400
    assert reply.body == (
        b'{"error":"Chunked request body exceeds maximum of 65536 non-empty chunks. Send fewer or larger HTTP chunks."}'
    )
    wide = await open_door(chunk_count_max=2**18)
    client = await wide.connect()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, head + one * 2**18 + b"0\r\n\r\n")
            assert (await client.reply()).status == 500  # JSON of blanks
    assert b"document is empty" in (await client.ask(head + b"1\r\n \r\n0\r\n\r\n")).body


async def test_expect_continue(door, infer_bytes):
    """The interim answer comes before the body, and not when the body is there already."""
    request = infer_bytes(b"Expect: 100-continue\r\n")
    head, _, body = request.partition(b"\r\n\r\n")
    client = await door.connect()
    await client.send(head + b"\r\n\r\n")
    assert (await client.reply()).line == "HTTP/1.1 100 Continue"
    assert (await client.ask(body)).status == 200
    assert (await client.ask(request)).status == 200
    chunked = chunked_of(request, 100)
    head, _, body = chunked.partition(b"\r\n\r\n")
    await client.send(head + b"\r\n\r\n")
    assert (await client.reply()).status == 100
    assert (await client.ask(body)).status == 200


async def test_http_1_0(door, infer_bytes):
    """Closes after the answer unless asked to keep the connection."""
    client = await door.connect()
    reply = await client.ask(infer_bytes(b"Connection: keep-alive\r\n", version=b"1.0"))
    assert (reply.status, reply.headers["connection"]) == (200, "keep-alive")
    reply = await client.ask(infer_bytes(version=b"1.0"))
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert await client.ended() == b""


async def test_absolute_targets_queries_and_empty_lines(door):
    """Ways to write the same request."""
    client = await door.connect()
    for line in (b"/v2/health/live?a=/b", b"http://host:8000/v2/health/live", b"http://h/v2/health/live?x=1"):
        assert (await client.ask(b"\r\n\r\nGET %b HTTP/1.1\r\n\r\n" % line)).status == 200
    for line in (b"/v2/health/live/", b"//v2/health/live", b"/v2/health/%6cive", b"*", b"http://host"):
        assert (await client.ask(b"GET %b HTTP/1.1\r\n\r\n" % line)).status == 404


async def test_an_upgrade_that_is_asked_for_is_ignored(door):
    """The request is answered as HTTP/1.1 and the connection goes on."""
    client = await door.connect()
    upgrade = b"GET /v2/health/live HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert (await client.ask(upgrade)).status == 200
    assert (await client.ask(upgrade)).status == 200


POST = b"POST /v2/repository/index HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "odd length and chunks": (POST + b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and two lengths": (CHUNKED[:-2] + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "length and chunks in HTTP/1.0": (CHUNKED[:-2].replace(b"1.1", b"1.0") + b"Content-Length: 0\r\n\r\n", 400),
    "length and an unknown coding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: gzip\r\n\r\nabc", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "negative length": (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    "hexadecimal length": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "length beyond 32 bits": (POST + b"Content-Length: 2147483648\r\n\r\n", 400),
    "length beyond 64 bits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "folded header": (POST + b"Foo: a\r\n b\r\n\r\n", 400),
    "bare LF in a header": (POST + b"Foo: a\nBar: b\r\n\r\n", 400),
    "bare LF everywhere": (b"GET /v2 HTTP/1.1\nHost: h\n\n", 400),
    "NUL in a header": (POST + b"Foo: a\0b\r\n\r\n", 400),
    "NUL in an unfinished head": (POST + b"Foo: a\0b", 400),
    "blank before the colon": (POST + b"Foo : a\r\n\r\n", 400),
    "no colon": (POST + b"Foo\r\n\r\n", 400),
    "other coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", 400),
    "version 2.0": (b"GET /v2 HTTP/2.0\r\n\r\n", 400),
    "version 0.9": (b"GET /v2\r\n\r\n", 400),
    "version 1.2": (b"GET /v2 HTTP/1.2\r\n\r\n", 400),
    "lower case method": (b"get /v2 HTTP/1.1\r\n\r\n", 400),
    "unknown method": (b"BREW /v2 HTTP/1.1\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "control character in the path": (b"GET /v2/\x01 HTTP/1.1\r\n\r\n", 400),
    "negative chunk": (CHUNKED + b"-1\r\na\r\n0\r\n\r\n", 400),
    "signed chunk": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    "chunk with a prefix": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    "empty chunk size": (CHUNKED + b"\r\na\r\n0\r\n\r\n", 400),
    "huge chunk": (CHUNKED + b"ffffffffffffffffffff\r\n", 400),
    "chunk beyond the body limit": (CHUNKED + b"fffffffffffff\r\n", 400),
    "chunk longer than its size": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    "chunk ended by LF": (CHUNKED + b"1\r\na\n0\r\n\r\n", 400),
    "chunk size ended by LF": (CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    "endless chunk line": (CHUNKED + b"1;" + b"a" * 10_000, 400),
    "bad trailer": (CHUNKED + b"0\r\nnot a trailer\r\n\r\n", 400),
    "endless trailers": (CHUNKED + b"0\r\n" + b"A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n" * 2000, 431),
    "large head": (b"GET /v2 HTTP/1.1\r\nA: " + b"x" * 40_000, 431),
    "large head with its end": (b"GET /v2 HTTP/1.1\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    "many headers": (b"GET /v2 HTTP/1.1\r\n" + b"A: b\r\n" * 129 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals(door, name):
    """Each gets its status and a JSON error, then the connection ends; the next client is served."""
    data, status = REFUSED[name]
    with trio.fail_after(5):
        client = await door.connect()
        reply = await client.ask(data)
        assert reply.status == status
        assert reply.body.startswith(b'{"error":"')
        assert reply.headers["connection"] == "close"
        assert await client.ended() == b""
    assert (await door.ask(GET)).status == 200


@pytest.mark.parametrize("server", ["native", "hypercorn"])
@pytest.mark.parametrize("length", [b"2", b"14", b"0"])
@pytest.mark.parametrize("order", [1, -1])
async def test_a_length_beside_chunks(open_door, server, length, order):
    """The chunks are the body, and what follows is never read as a request, whatever the length says."""
    door = await open_door(server=server)
    client = await door.connect()
    fields = [b"Transfer-Encoding: chunked\r\n", b"Content-Length: %b\r\n" % length][::order]
    await client.send(POST + b"".join(fields) + b'\r\nf\r\n{"ready":false}\r\n0\r\n\r\n' + GET)
    reply = await client.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert b"never" in reply.body
    assert await client.ended() == b""


async def test_a_refused_upload_still_reads_its_reply(door):
    """The client sends 20 MB that nobody wants and only then looks: the reply must not be lost to a reset."""
    client = await door.connect()
    await client.send(POST + b"Content-Length: -1\r\n\r\n" + b"x" * 20_000_000)
    reply = await client.reply()
    assert reply.status == 400
    assert await client.ended() == b""


async def test_body_limits_of_ones_own(open_door):
    """A smaller limit than the protocol's holds for both kinds of body."""
    door = await open_door(body_bytes_max=10)
    reply = await door.ask(POST + b"Content-Length: 11\r\n\r\n")
    assert (reply.status, reply.body) == (400, b'{"error":"request body of 11 bytes exceeds the maximum of 10 bytes"}')
    reply = await door.ask(CHUNKED + b"5\r\nabcde\r\n6\r\n")
    assert (reply.status, reply.body) == (400, b'{"error":"request body exceeds the maximum of 10 bytes"}')


async def test_head_requests_have_no_body(door):
    """HEAD is refused like any wrong method, and what follows is still in step."""
    client = await door.connect()
    await client.send(b"HEAD /v2 HTTP/1.1\r\n\r\n" + GET)
    reply = await client.reply(has_body=False)
    assert (reply.line, reply.headers["content-length"]) == ("HTTP/1.1 405 Not Allowed", "30")
    assert (await client.reply()).status == 200
