"""Bytes in JSON: files of a load, handles of CUDA regions, from encoders that break lines and those that do not."""

from __future__ import annotations

from base64 import b64encode, encodebytes

import orjson
import pytest
from despina.schema.base64_text import decode_base64

CONTENT = bytes(range(256))


def post(path, document):
    body = orjson.dumps(document)
    return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def wrapped(content, every, with_):
    text = b64encode(content).decode()
    return with_.join(text[start : start + every] for start in range(0, len(text), every))


SPELLINGS = {
    "one line": lambda content: b64encode(content).decode(),
    "the C++ client": lambda content: wrapped(content, 72, "\n") + "\n",
    "MIME": lambda content: encodebytes(content).decode().replace("\n", "\r\n"),
    "any white space": lambda content: "\t" + wrapped(content, 7, " ") + "\v\f",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_files_and_handles(door, spelling):
    """Goal: line breaks mean nothing, in a file of a load and in a CUDA handle; the refusal of a handle is the one for
    a machine without GPUs."""
    write = SPELLINGS[spelling]
    assert decode_base64(write(CONTENT)) == CONTENT
    body = {"parameters": {"config": "{}", "file:1/model.py": write(CONTENT)}}
    reply = await door.ask(post("/v2/repository/models/m/load", body))
    assert reply.status == 200
    assert door.engine.commands == [("load", "m", "{}", {"1/model.py": CONTENT})]
    body = {"raw_handle": {"b64": write(bytes(64))}, "device_id": 0, "byte_size": 4}
    reply = await door.ask(post("/v2/cudasharedmemory/region/r/register", body))
    assert "raw_handle" not in reply.body.decode()


@pytest.mark.parametrize("text", ["A", "AA=", "AAAA!", "AAAA\u00a0", "\u00e9AAA", "AAAA=AAA"])
async def test_what_is_no_base64(door, text):
    """Goal: anything but white space outside the alphabet is refused, by name."""
    body = {"parameters": {"config": "{}", "file:x": text}}
    reply = await door.ask(post("/v2/repository/models/m/load", body))
    assert (reply.status, "load parameter 'file:x' is not base64" in reply.body.decode()) == (500, True)
    body = {"raw_handle": {"b64": text}, "device_id": 0, "byte_size": 4}
    reply = await door.ask(post("/v2/cudasharedmemory/region/r/register", body))
    assert reply.body == b'{"error":"\'raw_handle\' must be a valid base64 encoded cudaIpcMemHandle_t"}'
    assert door.engine.commands == []
