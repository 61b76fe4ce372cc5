"""Requests whose heads have a known form: past the handler they are answered as by it."""

import json
import logging
import re

import attrs
import pytest
from despina.frontends.http.known import KnownInfer
from despina.schema.fault import QueueFull

from tests.unit.http.test_http_usual import asking, with_templates


@pytest.fixture
def passed(monkeypatch):
    """Whether each request offered to a known form was taken, in order; `passed.closed` says that none is."""

    class Verdicts(list):
        closed = False

    verdicts = Verdicts()
    take = KnownInfer.take

    def watched(self, request):
        verdicts.append(not verdicts.closed and take(self, request))
        return verdicts[-1]

    monkeypatch.setattr(KnownInfer, "take", watched)
    return verdicts


async def connected(door):
    """On a connection that has been asked before, what comes whole is handed over whole."""
    client = await door.connect()
    await client.ask(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    return client


async def ask(door, data):
    return await (await connected(door)).ask(data)


def with_numbers(seed):
    """The same in the text."""
    a, b = list(range(seed, seed + 16)), [3] * 16
    inputs = [
        {"name": f"INPUT{index}", "shape": [1, 16], "datatype": "INT32", "data": values}
        for index, values in enumerate((a, b))
    ]
    body = json.dumps({"inputs": inputs}).encode()
    return b"POST /v2/models/addsub/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


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
        yield asking(seed, extra=f'"id":"{"i" * seed}{seed}",')[0]
        yield asking(seed, extra=f'"id":"\\u00e4{seed}",')[0]
        yield changed(asking(seed)[0], b'"binary_data_output":true', b'"binary_data_output":true,"x":%d' % seed)
        yield changed(asking(seed)[0], b'"parameters":{"binary_data_output":true}', b'"outputs":[{"name":"OUTPUT1"}]')
        yield asking(seed, fields=f"traceparent: 00-{seed:032x}-{seed:016x}-01\r\n")[0]
        yield asking(seed, rows=1 + seed % 3)[0]
        yield with_numbers(seed)
        yield changed(with_numbers(seed), b'"INT32"', b'"INT33"')
        yield changed(with_numbers(seed), b"[1, 16]", b"[1, 17]")
        yield changed(asking(seed)[0], b'"INPUT0"', b'"INPUTX"')
        yield changed(asking(seed)[0], b'{"inputs"', b'["inputs"')
        for length in (b"-1", b"99999", b"+3", b"x", b""):
            yield changed(asking(seed)[0], b"Content-Length: ", b"Content-Length:%b#" % length)
            yield changed(with_numbers(seed), b"\r\n\r\n", b"\r\nInference-Header-Content-Length: %b\r\n\r\n" % length)


@pytest.mark.parametrize("alike", [False, True])
async def test_answers_are_those_of_the_handler(door, passed, alike):
    """Goal: byte for byte, for right requests and wrong ones, whether or not the model tells that answers are alike."""
    if alike:
        with_templates(door.engine.models["addsub"])
    for data in varied():
        passed.closed = False
        await ask(door, data)
        first = await ask(door, data)
        passed.closed = True
        other = await ask(door, data)
        assert (first.status, first.headers, first.body) == (other.status, other.headers, other.body), data
    assert passed.count(True) >= 100


async def test_large_answers(door, passed):
    """Goal: they leave in parts, the same."""
    for seed in range(3):
        data, expected = asking(seed, rows=300)
        assert (await ask(door, data)).body.endswith(expected)
    assert passed.count(True) >= 1


async def test_faults_are_told_as_by_the_handler(door, passed):
    """Goal: a refusal, a failure and what is no fault read the same, and the next request is served."""
    model = door.engine.models["addsub"]
    for seed in range(2):
        await ask(door, asking(seed)[0])
    for attribute, fault in (
        ("refusal", QueueFull("Exceeds maximum queue size")),
        ("fault", QueueFull("Exceeds maximum queue size")),
        ("refusal", ZeroDivisionError()),
    ):
        setattr(model, attribute, fault)
        found = []
        for passed.closed in (False, True):
            reply = await ask(door, asking(5)[0])
            found.append((reply.status, reply.headers, reply.body))
        assert found[0] == found[1]
        assert found[0][0] >= 400
        setattr(model, attribute, None)
        passed.closed = False
        assert (await ask(door, asking(6)[0])).body.endswith(asking(6)[1])
    assert True in passed


async def test_a_client_that_leaves_cancels_it(door, passed):
    """Goal: as for any other request."""
    model = door.engine.models["addsub"]
    await ask(door, asking(0)[0])
    model.is_held = True
    client = await connected(door)
    await client.send(asking(1)[0])
    await door.until(lambda: model.waiting)
    assert passed[-1]
    client.reset()
    await door.until(lambda: model.cancelled)


@pytest.mark.parametrize(
    "fields",
    [
        "Connection: close\r\n",
        "Accept-Encoding: gzip\r\n",
        "Content-Encoding: identity\r\nAccept-Encoding: deflate\r\n",
    ],
)
async def test_other_wishes_are_the_handlers(door, passed, fields):
    """Goal: a connection that ends, and answers to be compressed, are not for it."""
    for seed in range(4):
        assert (await ask(door, asking(seed, fields=fields)[0])).status == 200
    assert not passed


async def test_another_model_under_the_name_answers(door, passed):
    """Goal: a reload or unload counts from the next request on."""
    engine = door.engine
    for _ in range(3):
        for seed in range(3):
            data, expected = asking(seed)
            assert (await ask(door, data)).body.endswith(expected)
        engine.models["addsub"] = type(engine.models["addsub"])("addsub")
        engine.generation.bump()
    assert passed.count(True) >= 3
    del engine.models["addsub"]
    engine.generation.bump()
    assert (await ask(door, asking(0)[0])).status == 404


async def test_a_change_counts_though_nothing_was_let_go(door, passed):
    """Goal: it is the number that counts; letting go only spares memory."""
    for seed in range(3):
        await ask(door, asking(seed)[0])
    assert passed[-1]
    door.engine.generation.number += 1
    await ask(door, asking(5)[0])
    assert not passed[-1]


async def test_requests_are_traced_and_logged(door, passed, caplog):
    """Goal: none goes past the handler while requests are sampled or logged."""
    tracer = door.engine.tracer
    for seed in range(3):
        await ask(door, asking(seed)[0])
    count = len(passed)
    assert True in passed
    tracer.settings = attrs.evolve(tracer.settings, file="somewhere")
    tracer.change({"level": ("TIMESTAMPS",), "rate": 1000})
    for seed in range(3):
        await ask(door, asking(seed)[0])
    assert tracer._global.seen == 3
    tracer.change({"level": ()})
    with caplog.at_level(logging.DEBUG, "despina.http"):
        for seed in range(3):
            await ask(door, asking(seed)[0])
    assert len([record for record in caplog.records if "/infer" in record.getMessage()]) == 3
    assert True not in passed[count:]


async def test_a_door_that_closes_says_so(door, passed):
    """Goal: answers to requests in flight tell clients to leave."""
    model = door.engine.models["addsub"]
    await ask(door, asking(0)[0])
    model.is_held = True
    client = await connected(door)
    await client.send(asking(1)[0])
    await door.until(lambda: model.waiting)
    door.server.announce_end()
    model.release()
    reply = await client.reply()
    assert passed[-1]
    assert reply.headers["connection"] == "close"
