"""The engine's heartbeat: an answer that only a running engine on a turning loop gives."""

from __future__ import annotations

import trio
import trio.testing
from despina.engine.observe.heartbeat import Heartbeat


async def test_no_beat_before_and_after_the_engine_runs(autojump_clock):
    """Goal: who asks waits for the engine's task, and for ever once it has gone."""
    heartbeat = Heartbeat()
    with trio.move_on_after(5) as early:
        await heartbeat.beat()
    assert early.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat.run)
        with trio.fail_after(1):
            for _ in range(3):
                await heartbeat.beat()
        nursery.cancel_scope.cancel()
    with trio.move_on_after(5) as late:
        await heartbeat.beat()
    assert late.cancelled_caught


async def test_all_who_ask_are_answered():
    """Goal: several watchers, one of them gone, share beats; nothing turns while nobody asks."""
    heartbeat = Heartbeat()
    beats = []

    async def watch(name):
        await heartbeat.beat()
        beats.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, "early")
        with trio.CancelScope() as gone:
            gone.cancel()
            await heartbeat.beat()
        nursery.start_soon(heartbeat.run)
        nursery.start_soon(watch, "late")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(beats) == ["early", "late"]
        nursery.cancel_scope.cancel()
