"""What breaks inside the door ends with its call, or with its connection: the client is told, the neighbour served."""

from __future__ import annotations

import dis
import gzip
import itertools
import logging
import sys
from pathlib import Path

import pytest
import trio
from despina.frontends.grpc import server
from despina.frontends.grpc.request import deflate, incoming

from tests.unit.grpc.test_grpc_extensions import request

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
DOOR = str(Path(server.__file__).parent)
OTHERS = {"note", "_sweep", "_inspect", "_inspect_by_parts", "_decode", "_text", "_insert", "_evict"}
"""Not at work for a call: who logs the fault, and who looks at all connections from time to time. And what is done for
each field of a head: it would be hundreds of places, and all end the connection."""
_HANGS_S = 15.0
"""A reply that was forgotten leaves with the sweep, half a second later; under a tracer and beside others that may be
much more."""
ALLOCATING = {
    name
    for name in dis.opmap
    if name.startswith(("CALL", "BUILD_", "BINARY_", "FORMAT_", "LIST_", "DICT_", "SET_", "MAKE_", "STORE_SUBSCR"))
}


async def outcome(client, stream_id):
    """How a call ends, which it must: its status, `reset`, or `gone` with the connection."""
    while True:
        frame = await client.next_frame()
        if frame is None:
            return "gone"
        kind, flags, at, payload = frame
        headers = dict(client.decoder.decode(payload)) if kind == client.HEADERS else {}
        if at == stream_id and kind == client.RST:
            return "reset"
        if at == stream_id and flags & 1 and headers:
            return headers["grpc-status"]


async def served(client, stream_id):
    """The neighbour's turn."""
    await client.send(client.call(stream_id, LIVE))
    data, trailers = await client.answer(stream_id)
    assert (data[5:], trailers["grpc-status"]) == (b"\x08\x01", "0")


def small(client):
    return client.call(1, INFER, request("nothing").SerializeToString())


def large(client):
    data = client.message(request("nothing", rows=2000).SerializeToString())
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER))
    return head + client.frame(client.DATA, 1, 1, data)


def packed(client):
    data = client.message(gzip.compress(request("nothing").SerializeToString()), 1)
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER, grpc_encoding="gzip"))
    return head + client.frame(client.DATA, 1, 1, data)


def packed_large(client):
    data = client.message(gzip.compress(request("nothing", rows=2000).SerializeToString()), 1)
    head = client.frame(client.HEADERS, 4, 1, client.block(INFER, grpc_encoding="gzip"))
    return head + client.frame(client.DATA, 1, 1, data)


def streamed(client):
    head = client.frame(client.HEADERS, 4, 1, client.block(STREAM))
    return head + client.frame(client.DATA, 1, 1, client.message(request("nothing").SerializeToString()))


def management(client):
    return client.call(1, LIVE)


class Fault:
    """While armed, counts the places at which something of the door is about to allocate, and raises at one of them."""

    def __init__(self, kind):
        self._kind = kind
        self._left = 0
        self.place = None
        """Where it was raised."""

    def arm(self, number):
        self._left = number
        self.place = None
        sys.settrace(self._enter)

    def disarm(self):
        sys.settrace(None)

    def _enter(self, frame, event, argument):
        code = frame.f_code
        if not code.co_filename.startswith(DOOR) or code.co_filename.endswith("sweep.py") or code.co_name in OTHERS:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame, event, argument):
        if event == "opcode" and dis.opname[frame.f_code.co_code[frame.f_lasti]] in ALLOCATING:
            if not self._left:
                self.disarm()
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise self._kind("planted")
            self._left -= 1
        return self._step


@pytest.mark.interpreted
@pytest.mark.parametrize(("kind", "status"), [(MemoryError, "8"), (RuntimeError, "13")])
@pytest.mark.parametrize("frames", [small, large, packed, packed_large, streamed, management])
async def test_a_fault_at_any_place(open_door, monkeypatch, caplog, frames, kind, status):
    """Goal: wherever it is raised while a call is served, the call ends with a status, or at least with its connection;
    the neighbour is served; the log has the traceback."""
    caplog.set_level(logging.ERROR, "despina.grpc")
    monkeypatch.setattr(server, "_ACCEPT_PAUSE_S", 0.001)
    door = await open_door()
    neighbour = await door.connect()
    fault = Fault(kind)
    ends = {}
    for number in itertools.count():
        client = await door.connect()
        await client.send(client.frame(client.PING, 0, 0, bytes(8)))
        await client.wait_for(client.PING)
        await served(neighbour, 4 * number + 1)
        fault.arm(number)
        await client.send(frames(client))
        with trio.move_on_after(_HANGS_S) as scope:
            end = await outcome(client, 1)
        fault.disarm()
        if fault.place is None:
            break
        ends[fault.place] = "hangs" if scope.cancelled_caught else end
        if not any(str(record.exc_info[1]) == "planted" for record in caplog.records):
            ends[fault.place] += ", not logged"
        caplog.clear()
        await served(neighbour, 4 * number + 3)
        await client.stream.aclose()
    assert {place: end for place, end in ends.items() if end not in ("0", status, "reset", "gone")} == {}
    told = {place.partition(":")[0] for place, end in ends.items() if end == status}
    taken_whole = frames in (small, management)
    assert ({"call.py"} if taken_whole else {"incoming.py", "call.py"}) <= told  # not cut off
    assert end == "0"  # nothing was raised


@pytest.mark.parametrize("value", ["A", "\N{SNOWMAN}"])
@pytest.mark.parametrize("path", [STREAM, LIVE])
async def test_metadata_that_cannot_be_decoded(door, path, value):
    """Goal: a client's binary header that is none ends its call at most."""
    client, neighbour = await door.connect(), await door.connect()
    head = client.frame(client.HEADERS, 4, 1, client.block(path, x_bin=value, triton_grpc_error="true"))
    await client.send(head + client.frame(client.DATA, 1, 1, client.message(b"")))
    assert await outcome(client, 1) == "0"
    await served(neighbour, 1)


async def test_a_worker_that_fails(open_door, monkeypatch):
    """Goal: what breaks in a thread ends the call that it worked for."""

    def broken(*_):
        raise RuntimeError

    door = await open_door(response_compression_level="low")
    client, neighbour = await door.connect(), await door.connect()
    with monkeypatch.context() as patch:
        patch.setattr(incoming, "inflate_in_steps", broken)
        await client.send(packed_large(client))
        assert await outcome(client, 1) == "13"
        await served(neighbour, 1)
    monkeypatch.setattr(deflate, "deflate", broken)
    data = request(rows=1000).SerializeToString()
    await client.send(client.call(3, INFER, data, grpc_accept_encoding="gzip"))
    assert await outcome(client, 3) == "13"
    await served(neighbour, 3)


@pytest.mark.interpreted
async def test_no_room_for_a_new_connection(door, monkeypatch):
    """Goal: it is turned away; those that are there are served."""

    def full(*_):
        raise MemoryError

    neighbour = await door.connect()
    with monkeypatch.context() as patch:
        patch.setattr(server, "Connection", full)
        stranger = await door.connect(greet=False)
        assert await stranger.next_frame() is None
        await served(neighbour, 1)
    await served(await door.connect(), 1)


@pytest.mark.interpreted
async def test_a_pass_that_fails(door, monkeypatch):
    """Goal: the listener goes on after what no connection is to blame for, such as a model that breaks its executor."""

    def broken():
        monkeypatch.undo()
        raise RuntimeError

    neighbour = await door.connect()
    monkeypatch.setattr(door.server.inline, "end_pass", broken)
    await served(neighbour, 1)
    await served(neighbour, 3)
