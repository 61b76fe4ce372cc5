"""What the door remembers of earlier requests (forms of heads, frames of JSON, texts of answers) changes no answer."""

import json
import logging
import random
import re

import attrs
import numpy as np
import pytest
import trio
from despina.schema.fault import QueueFull
from despina.schema.inference import ResponseTemplate

from tests.repeated_calls import forget_heads, forget_texts, watched_memory


def asking(seed, *, name="addsub", extra="", fields="", rows=1):
    """A request for add/sub of two INT32[rows,16], and the sum and difference as bytes."""
    a, b = np.random.default_rng(seed).integers(-1000, 1000, (2, rows, 16), dtype=np.int32)
    size = rows * 64
    tensors = ",".join(
        f'{{"name":"INPUT{index}","shape":[{rows},16],"datatype":"INT32","parameters":{{"binary_data_size":{size}}}}}'
        for index in (0, 1)
    )
    head = f'{{{extra}"inputs":[{tensors}],"parameters":{{"binary_data_output":true}}}}'.encode()
    body = head + a.tobytes() + b.tobytes()
    lines = f"POST /v2/models/{name}/infer HTTP/1.1\r\nInference-Header-Content-Length: {len(head)}\r\n{fields}"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body, (a + b).tobytes() + (a - b).tobytes()


def with_numbers(seed):
    """The same in the text."""
    a, b = list(range(seed, seed + 16)), [3] * 16
    inputs = [
        {"name": f"INPUT{index}", "shape": [1, 16], "datatype": "INT32", "data": values}
        for index, values in enumerate((a, b))
    ]
    body = json.dumps({"inputs": inputs}).encode()
    return b"POST /v2/models/addsub/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def with_templates(model, rows=1):
    """The model's answers tell their form, as the cheapest backends' do."""
    template = ResponseTemplate("addsub", "1", [("OUTPUT0", "INT32", (rows, 16)), ("OUTPUT1", "INT32", (rows, 16))])
    finish = model._finish

    def finished(job):
        on_done = job.on_done

        def answered(job):
            wires = [tensor.memory() for tensor in job.response.outputs]
            job.response = template.response(job.request.id, wires)
            on_done(job)

        if model.fault is None:
            job.on_done = answered
        finish(job)

    model._finish = finished
    return model


@pytest.fixture
def uses(monkeypatch):
    """Of what is remembered, one after the other."""
    return watched_memory(monkeypatch)


async def ask_anew(door, data):
    """The reply of a door that remembers nothing, on a connection of its own."""
    forget_texts()
    forget_heads(door.server)
    return await door.ask(data)


async def remembered(door, count=4):
    """A connection on which such requests have been asked, so that the next is like them but for its tensors."""
    client = await door.connect()
    for seed in range(count):
        await client.ask(asking(seed)[0])
    return client


def same(reply, other):
    return (reply.status, reply.headers, reply.body) == (other.status, other.headers, other.body)


def changed(data, before, after):
    """With other words, and the lengths that belong to them."""
    assert before in data
    more = len(after) - len(before)
    lines, _, body = data.partition(b"\r\n\r\n")
    if before not in body:
        return data.replace(before, after, 1)
    lines = re.sub(rb"(Content-Length: )([0-9]+)", lambda found: b"%b%d" % (found[1], int(found[2]) + more), lines)
    return lines + b"\r\n\r\n" + body.replace(before, after, 1)


def varied():
    """Requests of which no two are the same, right ones and wrong ones."""
    for seed in range(12):
        yield asking(seed)[0]
        yield asking(seed, extra=f'"id":"{"i" * seed}{seed}",')[0]
        yield asking(seed, extra=f'"id":"\\u00e4{seed}",')[0]
        yield changed(asking(seed)[0], b'"binary_data_output":true', b'"binary_data_output":true,"x":%d' % seed)
        yield changed(asking(seed)[0], b'"parameters":{"binary_data_output":true}', b'"outputs":[{"name":"OUTPUT1"}]')
        yield asking(seed, fields=f"traceparent: 00-{seed:032x}-{seed:016x}-01\r\n")[0]
        yield asking(seed, fields="Accept-Encoding: gzip\r\n")[0]
        yield asking(seed, fields="Content-Encoding: identity\r\nAccept-Encoding: deflate\r\n")[0]
        yield asking(seed, rows=1 + seed % 3)[0]
        yield with_numbers(seed)
        yield changed(with_numbers(seed), b'"INT32"', b'"INT33"')
        yield changed(with_numbers(seed), b"[1, 16]", b"[1, 17]")
        yield changed(asking(seed)[0], b'"INPUT0"', b'"INPUTX"')
        yield changed(asking(seed)[0], b'{"inputs"', b'["inputs"')
        for length in (b"-1", b"99999", b"+3", b"x", b""):
            yield changed(asking(seed)[0], b"Content-Length: ", b"Content-Length:%b#" % length)
            yield changed(with_numbers(seed), b"\r\n\r\n", b"\r\nInference-Header-Content-Length: %b\r\n\r\n" % length)


@pytest.mark.interpreted
@pytest.mark.parametrize("by_form", [False, True])
async def test_answers_are_those_of_a_door_that_remembers_nothing(door, uses, by_form):
    """Goal: byte for byte, for right requests and wrong ones, whether or not the model tells the form of answers."""
    if by_form:
        with_templates(door.engine.models["addsub"])
    requests = list(varied())
    for data in requests:
        await door.ask(data)
    replies = [await door.ask(data) for data in requests]
    assert min(map(uses.count, ("known", "frame", "form"))) >= 50
    for data, reply in zip(requests, replies, strict=True):
        assert same(reply, await ask_anew(door, data)), data


@pytest.mark.parametrize("rows", [120, 130, 500])
async def test_answers_that_are_not_copied(door, uses, rows):
    """Goal: byte for byte the same. Method: answers below and above the bound for copies, and about as much as comes in
    one piece."""
    with_templates(door.engine.models["addsub"], rows)
    client = await door.connect()
    for seed in range(8):
        data, expected = asking(seed, rows=rows)
        first = await ask_anew(door, data)
        assert same(await client.ask(data), first)
        assert first.body.endswith(expected)
    assert "form" in uses


async def test_an_id_is_answered_with_itself(door, uses):
    """Goal: the text after which an answer is made belongs to the request: ids that change are never mixed up."""
    with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for seed, name in enumerate("aaabbcacbaaaddd"):
        data, expected = asking(seed, extra=f'"id":"{name}",')
        reply = await client.ask(data)
        assert reply.body.startswith(b'{"id":"%b",' % name.encode())
        assert reply.body.endswith(expected)
    assert uses.count("form") >= 10


@pytest.mark.interpreted
async def test_another_model_under_the_name_answers(door, uses):
    """Goal: a reload or unload counts from the next request on."""
    engine = door.engine
    client = await door.connect()
    for load in range(1, 5):
        engine.models["addsub"] = with_templates(type(engine.models["addsub"])("addsub"), load)
        for seed in range(3):
            reply = await client.ask(asking(seed)[0])
            assert b'"shape":[%d,16]' % load in reply.body  # as that one says
        engine.generation.bump()
    assert uses.count("known") >= 8
    del engine.models["addsub"]
    engine.generation.bump()
    assert (await client.ask(asking(0)[0])).status == 404


@pytest.mark.interpreted
async def test_requests_are_traced_and_logged_from_the_next_on(door, uses, caplog):
    """Goal: none is missed on a connection whose requests are remembered."""
    tracer = door.engine.tracer
    client = await remembered(door)
    assert "known" in uses
    uses.clear()
    tracer.settings = attrs.evolve(tracer.settings, file="somewhere")
    tracer.change({"level": ("TIMESTAMPS",), "rate": 1000})
    for seed in range(4):
        assert (await client.ask(asking(seed)[0])).body.endswith(asking(seed)[1])
    assert tracer._global.seen == 4
    tracer.change({"level": ()})
    with caplog.at_level(logging.DEBUG, "despina.http"):
        for seed in range(3):
            await client.ask(asking(seed)[0])
    for seed in range(3):
        await client.ask(asking(seed)[0])
    assert "known" in uses
    assert len([record for record in caplog.records if "/infer" in record.getMessage()]) == 3


@pytest.mark.interpreted
async def test_a_last_request_is_not_known_by_one_that_was_not(door, uses):
    """Goal: heads that have a length beside their chunks share the form of those that have none, and end the connection
    nevertheless."""
    json, tensors = asking(1)[0].partition(b"\r\n\r\n")[2][:-128], asking(1)[0][-128:]
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(json + tensors), json + tensors)
    lines = b"POST /v2/models/addsub/infer HTTP/1.1\r\nInference-Header-Content-Length: %d\r\n" % len(json)
    client = await door.connect()
    for _ in range(3):
        reply = await client.ask(lines + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert (reply.status, "connection" in reply.headers) == (200, False)
    assert "known" in uses
    reply = await client.ask(lines + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert await client.ended() == b""


@pytest.mark.interpreted
async def test_faults_are_told_the_same(door, uses):
    """Goal: a refusal, a failure and what is no fault read as ever, and the next request is served."""
    model = with_templates(door.engine.models["addsub"])
    data, expected = asking(1)
    for attribute, fault in (
        ("refusal", QueueFull("Exceeds maximum queue size")),
        ("fault", QueueFull("Exceeds maximum queue size")),
        ("refusal", ZeroDivisionError()),
    ):
        client = await remembered(door)
        uses.clear()
        setattr(model, attribute, fault)
        reply = await client.ask(data)
        assert uses.count("known") == 1
        assert same(reply, await ask_anew(door, data))
        assert reply.status >= 400
        setattr(model, attribute, None)
        assert (await client.ask(data)).body.endswith(expected)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_cancels_it(door, how):
    """Goal: as for any other request."""
    model = door.engine.models["addsub"]
    client = await remembered(door)
    model.is_held = True
    await client.send(asking(2)[0])
    await door.until(lambda: model.waiting)
    if how == "reset":
        client.reset()
    else:
        await client.stream.aclose()
    await door.until(lambda: model.cancelled)
    await door.until(lambda: not door.listener.connections)


async def test_what_comes_ahead_of_the_answer_waits(door):
    """Goal: two more sent while one is in flight are answered in order."""
    model = with_templates(door.engine.models["addsub"])
    client = await remembered(door)
    model.is_held = True
    await client.send(asking(2)[0])
    await door.until(lambda: model.waiting)
    await client.send(asking(3)[0] + asking(4)[0][:100])
    await trio.sleep(0.02)
    model.is_held = False
    model.release()
    await client.send(asking(4)[0][100:])
    for seed in (2, 3, 4):
        assert (await client.reply()).body.endswith(asking(seed)[1])


@pytest.mark.interpreted
async def test_a_request_that_somebody_keeps_is_not_written_to(door, uses):
    """Goal: whoever holds on to requests finds them as they were."""
    model = door.engine.models["addsub"]
    kept = []
    finish = model._finish
    model._finish = lambda job: (kept.append(job.request), finish(job))
    await remembered(door, 8)
    assert "known" in uses
    sums = [request.inputs["INPUT0"].numpy() + request.inputs["INPUT1"].numpy() for request in kept]
    assert [one.tobytes() for one in sums] == [asking(seed)[1][:64] for seed in range(8)]


@pytest.mark.parametrize("is_draining", [False, True])
async def test_a_door_that_closes_says_so(door, is_draining):
    """Goal: the answer to a request in flight when the door begins to close ends its connection."""
    model = with_templates(door.engine.models["addsub"])
    client = await remembered(door)
    model.is_held = True
    await client.send(asking(2)[0])
    await door.until(lambda: model.waiting)
    async with trio.open_nursery() as nursery:
        if is_draining:
            nursery.start_soon(door.listener.drain, trio.current_time() + 60)
            await door.until(lambda: door.listener.draining)
        else:
            door.server.announce_end()
        model.release()
        reply = await client.reply()
    assert reply.headers["connection"] == "close"
    assert reply.body.endswith(asking(2)[1])
    assert await client.ended() == b""


async def test_what_follows_numbers_in_the_text_is_not_taken_for_tensors(door):
    """Goal: bytes that are left over are refused, though the head is a known one but for its length."""
    client = await door.connect()
    data = with_numbers(7)
    for _ in range(4):
        assert (await client.ask(data)).status == 200
    longer = data.replace(b"Content-Length: ", b"Content-Length: 1", 1)
    size = int(longer.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    reply = await client.ask(longer + b"x" * (size - len(data.partition(b"\r\n\r\n")[2])))
    assert same(reply, await ask_anew(door, longer + b"x" * (size - len(data.partition(b"\r\n\r\n")[2]))))
    assert reply.status == 500


async def outcome(door, data, *, forgotten):
    """What the server sends after a few requests and then `data` and the end of the stream."""
    client = await remembered(door)
    if forgotten:
        forget_texts()
        forget_heads(door.server)
    received = b""
    await client.send(data)
    await client.stream.send_eof()
    with trio.move_on_after(1):
        received = await client.ended()
    await client.stream.aclose()
    await door.until(lambda: not door.listener.connections)
    return received


@pytest.mark.interpreted
async def test_damaged_requests_are_read_the_same(door, uses):
    """Goal: one wrong byte, anywhere, has the effect that it always has."""
    with_templates(door.engine.models["addsub"])
    dice = random.Random(3)
    data, _ = asking(9)
    uses.clear()
    assert await outcome(door, data, forgotten=False) == await outcome(door, data, forgotten=True)
    assert "known" in uses
    for index in dice.sample(range(len(data)), 150):
        damaged = bytearray(data)
        damaged[index] ^= dice.randrange(1, 256)
        expected = await outcome(door, bytes(damaged), forgotten=True)
        assert await outcome(door, bytes(damaged), forgotten=False) == expected, (index, bytes(damaged))
    for size in (1, 100, len(data) - 1):
        for cut in (data[:size], data + data[:size]):
            assert await outcome(door, cut, forgotten=False) == await outcome(door, cut, forgotten=True)
