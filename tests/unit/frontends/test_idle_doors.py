"""What doors cost while nobody calls, and that they watch again once somebody does."""

from __future__ import annotations

import math

import trio

from tests.doors import both_doors
from tests.fakes import FakeBackend, write_model

IDLE_S = 1000.0
TURNS_MAX = 400
"""Of tasks, in that time. Looking twice a second takes 4,000 of them for two doors."""


class Turns(trio.abc.Instrument):
    """Counts how often a task ran."""

    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += 1


def at_the_pace_of_threads(clock):
    """From here on time does not jump: models close on threads, which an engine waits for only so long."""
    clock.autojump_threshold = math.inf
    clock.rate = 1.0


async def test_doors_without_clients_hardly_look(tmp_path, autojump_clock):
    """Goal: an idle server is idle: no door wakes up to watch connections that there are not."""
    write_model(tmp_path, "a")
    async with both_doors(tmp_path, backends={"fake": FakeBackend()}):
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        await trio.sleep(IDLE_S)
        trio.lowlevel.remove_instrument(turns)
        at_the_pace_of_threads(autojump_clock)
    assert turns.count < TURNS_MAX


async def test_who_comes_later_is_watched_like_anybody(tmp_path, autojump_clock):
    """Goal: the watch begins again with a client, however long there was none: half a request is refused in time, a
    connection that says nothing is closed."""
    write_model(tmp_path, "a")
    async with both_doors(tmp_path, backends={"fake": FakeBackend()}) as doors:
        for _ in range(2):
            await trio.sleep(IDLE_S)
            http = await trio.open_tcp_stream("127.0.0.1", doors.http_port)
            await http.send_all(b"GET /v2/health/live HT")
            grpc = await trio.open_tcp_stream("127.0.0.1", doors.grpc_port)
            with trio.fail_after(300):
                assert (await http.receive_some()).startswith(b"HTTP/1.1 408")
                while await grpc.receive_some():
                    pass
            await http.aclose()
            await grpc.aclose()
        at_the_pace_of_threads(autojump_clock)
