"""Requests with large JSON heads are read in a thread: everybody else is served meanwhile."""

import json
import threading

import numpy as np
import pytest
import trio
from despina.frontends.http.handler import infer as infer_module

ROWS = 20_000
"""With 16 integers each, more than a MiB of JSON."""
SMALL = b"GET /v2/health/live HTTP/1.1\r\n\r\n"


def posting(document, path=b"/v2/models/addsub/infer"):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)


def adding(rows, datatype="INT32"):
    values = np.arange(rows * 16).reshape(rows, 16).tolist()
    inputs = [{"name": f"INPUT{index}", "datatype": datatype, "shape": [rows, 16], "data": values} for index in (0, 1)]
    return {"id": "large", "inputs": inputs}


@pytest.fixture
def held(monkeypatch):
    """Reading waits on its thread until the event is set; the list says which threads have read."""
    gate, readers = threading.Event(), []
    decode = infer_module.decode_infer

    def slow(*arguments, **others):
        readers.append(threading.current_thread())
        if readers[-1] is not threading.main_thread():
            assert gate.wait(10)
        return decode(*arguments, **others)

    monkeypatch.setattr(infer_module, "decode_infer", slow)
    yield gate, readers
    gate.set()


async def test_the_answer_is_as_ever(door):
    """Goal: a large request is answered like a small one, and the connection goes on."""
    client = await door.connect()
    for rows in (ROWS, 1, ROWS):
        reply = await client.ask(posting(adding(rows)))
        answer = json.loads(reply.body)
        assert (reply.status, answer["id"]) == (200, "large")
        assert answer["outputs"][0]["data"] == (2 * np.arange(rows * 16)).tolist()


async def test_others_are_served_while_it_is_read(door, held):
    """Goal: other connections do not wait for the reading; what the client sends ahead does, in order."""
    gate, readers = held
    client = await door.connect()
    await client.send(posting(adding(ROWS)) + SMALL)
    await door.until(lambda: readers)
    assert readers[0] is not threading.main_thread()
    for _ in range(3):
        assert (await door.ask(posting(adding(1)))).status == 200
    gate.set()
    assert b'"id":"large"' in (await client.reply()).body
    assert (await client.reply()).status == 200


@pytest.mark.interpreted
async def test_many_texts_are_counted_there(door, monkeypatch):
    """Behind a small head, which is read at once."""
    gate, counters = threading.Event(), []
    count = infer_module.counted

    def slow(tensor):
        counters.append(threading.current_thread())
        assert gate.wait(10)
        return count(tensor)

    monkeypatch.setattr(infer_module, "counted", slow)
    tensor = {"name": "INPUT0", "datatype": "BYTES", "shape": [30_000], "parameters": {"binary_data_size": 150_000}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    body = head + b"\1\0\0\0a" * 30_000
    fields = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d" % (len(head), len(body))
    client = await door.connect()
    await client.send(b"POST /v2/models/identity/infer HTTP/1.1\r\n%b\r\n\r\n%b" % (fields, body))
    await door.until(lambda: counters)
    assert counters[0] is not threading.main_thread()
    assert (await door.ask(SMALL)).status == 200
    gate.set()
    reply = await client.reply()
    assert reply.status == 200
    assert reply.body.endswith(b"\1\0\0\0a" * 30_000)


async def test_one_is_read_at_a_time(door, held):
    """Goal: many large requests do not take the interpreter away with as many threads."""
    gate, readers = held
    clients = [await door.connect() for _ in range(5)]
    for client in clients:
        await client.send(posting(adding(ROWS)))
    await door.until(lambda: readers)
    await trio.sleep(0.05)
    assert len(readers) == 1
    gate.set()
    for client in clients:
        assert (await client.reply()).status == 200


async def test_faults_in_it(door):
    """Goal: damaged JSON and data of the wrong type have their usual errors; the connection goes on."""
    client = await door.connect()
    for change in (lambda rows: adding(rows, "BOOL"), lambda rows: json.dumps(adding(rows)).encode()[:-1]):
        small, large = await door.ask(posting(change(1))), await client.ask(posting(change(ROWS)))
        assert (large.status, large.headers["content-type"]) == (small.status, small.headers["content-type"])
        assert large.status >= 400
        assert large.body[:30] == small.body[:30]
    assert (await client.ask(SMALL)).status == 200


async def test_the_model_goes_meanwhile(door, held):
    """Goal: what the model's name means is decided when the reading is over."""
    gate, readers = held
    client = await door.connect()
    await client.send(posting(adding(ROWS)))
    await door.until(lambda: readers)
    model = door.engine.models.pop("addsub")
    gate.set()
    reply = await client.reply()
    assert (reply.status, reply.headers["content-type"]) == (404, "text/plain")
    door.engine.models["addsub"] = model


async def test_the_client_goes_meanwhile(door, held):
    """Goal: nothing is submitted for it, and nothing is left of it."""
    gate, readers = held
    model = door.engine.models["addsub"]
    model.is_held = True
    client = await door.connect()
    await client.send(posting(adding(ROWS)))
    await door.until(lambda: readers)
    client.reset()
    await door.until(lambda: not door.listener.connections)
    gate.set()
    await trio.sleep(0.05)
    assert not model.waiting
    assert (await door.ask(SMALL)).status == 200
