"""Requests that repeat themselves on a connection: whatever way they take, the answers are the same."""

import json
import logging
import random

import attrs
import numpy as np
import pytest
import trio
from despina.frontends.http.request.short_way import MADE_MAX
from despina.schema.fault import QueueFull
from despina.schema.inference import ResponseTemplate


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


def with_templates(model, rows=1):
    """The model's answers say that they are alike, as the cheapest backends' do."""
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


@pytest.mark.parametrize("alike", [False, True])
async def test_answers_are_those_of_the_long_way(door, taken, alike):
    """Goal: byte for byte, whether or not the model tells that its answers are alike."""
    if alike:
        with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for seed in range(20):
        data, expected = asking(seed)
        first = await door.ask(data)  # on a connection of its own: the long way
        again = await client.ask(data)
        assert (again.status, again.headers, again.body) == (first.status, first.headers, first.body)
        assert again.body.endswith(expected)
    assert taken.count(True) >= 17


@pytest.mark.parametrize("rows", [120, 130, 500])
async def test_answers_that_are_not_copied(door, taken, rows):
    """Goal: byte for byte the long way's. Method: answers below and above the bound for copies, and about as much as
    comes in one piece."""
    with_templates(door.engine.models["addsub"], rows)
    client = await door.connect()
    for seed in range(8):
        data, expected = asking(seed, rows=rows)
        first = await door.ask(data)
        again = await client.ask(data)
        assert (again.status, again.headers, again.body) == (first.status, first.headers, first.body)
        assert again.body.endswith(expected)
    assert True in taken


async def test_an_id_is_answered_with_itself(door, taken):
    """Goal: the text after which an answer is made belongs to the request: ids that change are never mixed up."""
    with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for seed, name in enumerate("aaabbcacbaaaddd"):
        data, expected = asking(seed, extra=f'"id":"{name}",')
        reply = await client.ask(data)
        assert reply.body.startswith(b'{"id":"%b",' % name.encode())
        assert reply.body.endswith(expected)
    assert True in taken
    assert False in taken


async def test_a_client_that_never_repeats_itself_is_left_alone(door, taken, made):
    """Goal: after some tries nothing is prepared for such a client any more."""
    client = await door.connect()
    for seed in range(50):
        data, _ = asking(seed, extra=f'"id":"{seed:02}",')
        assert (await client.ask(data)).status == 200
    assert len(made) == MADE_MAX
    assert not any(taken)


@pytest.mark.parametrize("what", ["models", "batch sizes"])
async def test_two_in_turn_are_left_alone(door, taken, made, what):
    """Goal: a client that asks for two models, or with two batch sizes, in turn is served, and costs no more than so
    many preparations; after a change it is given another chance, and taken when it has made up its mind."""
    client = await door.connect()
    engine = door.engine
    engine.models["other"] = type(engine.models["addsub"])("other")

    def turn(seed):
        changed = {"name": "other"} if what == "models" else {"rows": 2}
        return asking(seed, **(changed if seed % 2 else {}))

    for seed in range(50):
        data, expected = turn(seed)
        assert (await client.ask(data)).body.endswith(expected)
    assert len(made) == MADE_MAX
    engine.generation.bump()
    for seed in range(5):
        assert (await client.ask(turn(seed)[0])).status == 200
    for seed in range(5):
        await client.ask(asking(seed)[0])
    assert taken[-4:] == [True] * 4
    assert len(made) <= 2 * MADE_MAX


async def test_another_model_under_the_name_answers(door, taken, made):
    """Goal: a reload or unload counts from the next request on, and requests are usual again after each."""
    engine = door.engine
    client = await door.connect()
    for _ in range(2 * MADE_MAX):
        for seed in range(3):
            data, expected = asking(seed)
            assert (await client.ask(data)).body.endswith(expected)
        engine.models["addsub"] = type(engine.models["addsub"])("addsub")
        engine.generation.bump()
    assert taken.count(True) >= 4 * MADE_MAX - 1
    assert len(made) <= 2 * MADE_MAX + 1
    del engine.models["addsub"]
    engine.generation.bump()
    assert (await client.ask(asking(0)[0])).status == 404


async def test_a_change_counts_though_nothing_was_let_go(door, taken):
    """Goal: it is the number that says whether a short way is open; letting go only spares memory."""
    client = await door.connect()
    for seed in range(4):
        await client.ask(asking(seed)[0])
    assert taken[-1]
    door.engine.generation.number += 1
    await client.ask(asking(5)[0])
    assert not taken[-1]
    await client.ask(asking(6)[0])
    assert taken[-1]


async def test_requests_are_traced_from_when_tracing_begins(door, taken):
    """Goal: the next request is sampled, on a connection with a short way too, and none is usual until it ends."""
    tracer = door.engine.tracer
    client = await door.connect()
    for seed in range(4):
        await client.ask(asking(seed)[0])
    count = len(taken)
    tracer.settings = attrs.evolve(tracer.settings, file="somewhere")
    tracer.change({"level": ("TIMESTAMPS",), "rate": 1000})
    for seed in range(4):
        assert (await client.ask(asking(seed)[0])).body.endswith(asking(seed)[1])
    assert tracer._global.seen == 4
    assert len(taken) == count
    tracer.change({"level": ()})
    for seed in range(4):
        await client.ask(asking(seed)[0])
    assert taken[count:].count(True) >= 2


async def test_faults_are_told_as_on_the_long_way(door, taken):
    """Goal: a refusal and a failure of a usual request read as those of any other, and the next is served."""
    model = with_templates(door.engine.models["addsub"])
    client = await door.connect()
    data, expected = asking(1)
    for _ in range(4):
        await client.ask(data)
    for attribute in ("refusal", "fault"):
        setattr(model, attribute, QueueFull("Exceeds maximum queue size"))
        usual, other = await client.ask(data), await door.ask(data)
        assert (usual.status, usual.headers, usual.body) == (other.status, other.headers, other.body)
        assert usual.status >= 400
        setattr(model, attribute, None)
        assert (await client.ask(data)).body.endswith(expected)
    assert all(taken)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_cancels_it(door, taken, how):
    """Goal: as for any other request."""
    model = door.engine.models["addsub"]
    client = await door.connect()
    for _ in range(4):
        await client.ask(asking(1)[0])
    model.is_held = True
    await client.send(asking(2)[0])
    await door.until(lambda: model.waiting)
    assert taken[-1]
    if how == "reset":
        client.reset()
    else:
        await client.stream.aclose()
    await door.until(lambda: model.cancelled)
    await door.until(lambda: not door.listener.connections)


async def test_what_comes_ahead_of_the_answer_waits(door, taken):
    """Goal: two more sent while a usual one is in flight are answered in order."""
    model = with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for _ in range(4):
        await client.ask(asking(1)[0])
    model.is_held = True
    await client.send(asking(2)[0])
    await door.until(lambda: model.waiting)
    assert taken[-1]
    await client.send(asking(3)[0] + asking(4)[0][:100])
    await trio.sleep(0.02)
    model.is_held = False
    model.release()
    await client.send(asking(4)[0][100:])
    for seed in (2, 3, 4):
        assert (await client.reply()).body.endswith(asking(seed)[1])


async def test_a_request_that_somebody_keeps_is_not_written_to(door, taken):
    """Goal: whoever holds on to requests finds them as they were."""
    model = door.engine.models["addsub"]
    kept = []
    finish = model._finish
    model._finish = lambda job: (kept.append(job.request), finish(job))
    client = await door.connect()
    for seed in range(8):
        await client.ask(asking(seed)[0])
    assert True in taken
    sums = [request.inputs["INPUT0"].numpy() + request.inputs["INPUT1"].numpy() for request in kept]
    assert [one.tobytes() for one in sums] == [asking(seed)[1][:64] for seed in range(8)]


async def test_an_idle_connection_keeps_no_tensors(door, taken):
    """Goal: what the last request brought is let go when its client pauses, and the next is usual all the same."""
    client = await door.connect()
    for seed in range(4):
        await client.ask(asking(seed)[0])
    connection = next(iter(door.listener.connections.values()))
    assert connection.usual._request.inputs
    connection.on_tick(connection.since + 1.5)
    assert not connection.usual._request.inputs
    assert (await client.ask(asking(5)[0])).body.endswith(asking(5)[1])
    assert taken[-1]


async def test_a_draining_server_says_close(door, taken):
    """Goal: the answer to a usual request in flight when the server begins to drain ends its connection."""
    model = with_templates(door.engine.models["addsub"])
    client = await door.connect()
    for _ in range(4):
        await client.ask(asking(1)[0])
    model.is_held = True
    await client.send(asking(2)[0])
    await door.until(lambda: model.waiting)
    assert taken[-1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.listener.drain, trio.current_time() + 60)
        await door.until(lambda: door.listener.draining)
        model.release()
    reply = await client.reply()
    assert reply.headers["connection"] == "close"
    assert reply.body.endswith(asking(2)[1])
    assert await client.ended() == b""


async def test_every_request_is_in_a_verbose_log(door, taken, caplog):
    """Goal: the short way is closed while requests are logged."""
    client = await door.connect()
    for _ in range(4):
        await client.ask(asking(1)[0])
    caplog.set_level(logging.DEBUG, "despina.http")
    count = len(taken)
    for _ in range(3):
        await client.ask(asking(1)[0])
    assert len(taken) == count
    assert sum("HTTP request" in record.message for record in caplog.records) == 3
    caplog.set_level(logging.INFO, "despina.http")
    for _ in range(3):
        await client.ask(asking(1)[0])
    assert taken[-1]
    assert len(taken) > count


@pytest.mark.parametrize("fields", ["Accept-Encoding: gzip\r\n", "Connection: close\r\n"])
async def test_requests_with_wishes_are_not_usual(door, taken, fields):
    """Goal: compressed answers and connections that end take the long way."""
    for _ in range(3):
        client = await door.connect()
        assert (await client.ask(asking(1, fields=fields)[0])).status == 200
    assert taken == []


async def test_numbers_in_the_text_are_not_usual(door, taken, made):
    """Goal: of such requests more than their tensors' bytes differ, and nothing that comes behind them is taken for
    tensors."""
    client = await door.connect()
    inputs = [{"name": f"INPUT{place}", "shape": [1, 16], "datatype": "INT32", "data": [7] * 16} for place in (0, 1)]
    body = json.dumps({"inputs": inputs}).encode()
    for _ in range(4):
        lines = b"POST /v2/models/addsub/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert (await client.ask(lines + body)).status == 200
    longer = b"POST /v2/models/addsub/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (len(body) + 128)
    assert (await client.ask(longer + body + b"x" * 128)).status == 500
    assert made == []
    assert True not in taken


async def test_long_heads_are_not_usual(door, taken, made):
    """Goal: what a connection keeps to compare is bounded, whatever the client sends to be compared."""
    client = await door.connect()
    for _ in range(3):
        assert (await client.ask(asking(1, fields=f"X-Long: {'x' * 4000}\r\n")[0])).status == 200
    assert made == []
    for _ in range(3):
        await client.ask(asking(1, fields=f"X-Long: {'x' * 2000}\r\n")[0])
    assert len(made) == 1
    assert taken[-1]


async def outcome(door, usual, data):
    """What the server sends after a few requests and then `data` and the end of the stream."""
    client = await door.connect()
    for seed in range(4):
        await client.ask(asking(seed)[0])
    connection = next(reversed(door.listener.connections.values()))
    if usual:
        assert connection.usual is not None
    else:
        connection.usual, connection.usual_left = None, 0
    received = b""
    await client.send(data)
    await client.stream.send_eof()
    with trio.move_on_after(1):
        received = await client.ended()
    await client.stream.aclose()
    await door.until(lambda: not door.listener.connections)
    return received


async def test_damaged_requests_are_read_as_on_the_long_way(door, taken):
    """Goal: one wrong byte, anywhere, has the effect that it always has."""
    with_templates(door.engine.models["addsub"])
    dice = random.Random(3)
    data, _ = asking(9)
    assert await outcome(door, True, data) == await outcome(door, False, data)
    assert taken[-1]
    for index in dice.sample(range(len(data)), 150):
        damaged = bytearray(data)
        damaged[index] ^= dice.randrange(1, 256)
        expected = await outcome(door, False, bytes(damaged))
        assert await outcome(door, True, bytes(damaged)) == expected, (index, bytes(damaged))
    for size in (1, 100, len(data) - 1):
        assert await outcome(door, True, data[:size]) == await outcome(door, False, data[:size])
        assert await outcome(door, True, data + data[:size]) == await outcome(door, False, data + data[:size])
