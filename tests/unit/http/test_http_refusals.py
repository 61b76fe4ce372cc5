"""A verbose log tells of each refused inference, in the reference server's words."""

import logging

import pytest
from despina.schema.fault import QueueFull

INFER = "/v2/models/addsub/infer"


def post(path, body):
    return b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def full(*_):
    raise QueueFull("Exceeds maximum queue size")


def told(caplog):
    return [record.message for record in caplog.records if "failed" in record.message]


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        (INFER, b'{"id":"i","inputs":[]}', "[request id: i] Infer failed: Exceeds maximum queue size"),
        (INFER, b'{"inputs":[]}', "[request id: <id_unknown>] Infer failed: Exceeds maximum queue size"),
        (INFER, b"[]", "[request id: <id_unknown>] Infer failed: "),
        ("/v2/models/addsub/generate", b"[]", "[request id: <id_unknown>] Infer failed: "),
        ("/v2/models/addsub/generate_stream", b"{", "[request id: <id_unknown>] Infer failed: "),
    ],
)
async def test_refusals_are_logged(door, monkeypatch, caplog, path, body, line):
    """Goal: one line each, with its id where it is known; at verbose level 0 none."""
    monkeypatch.setattr(door.engine.models["addsub"], "submit", full)
    assert (await door.ask(post(path, body))).status >= 400
    assert told(caplog) == []
    caplog.set_level(logging.DEBUG, "despina.http")
    reply = await door.ask(post(path, body))
    (said,) = told(caplog)
    assert said.startswith(line)
    assert said.partition("Infer failed: ")[2] in reply.body.decode().replace('\\"', '"')
