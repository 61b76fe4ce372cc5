"""In which order an awaited executor gets its batches and callers get their answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from despina.engine.execute.task import TaskInstance
from despina.schema.fault import Internal
from trio.testing import wait_all_tasks_blocked


class Noted:
    """A batch that writes down what becomes of it."""

    def __init__(self, name, log):
        self.name = name
        self.jobs = ()
        self.log = log

    def begin(self):
        self.log.append(f"begin {self.name}")

    def settle(self, fault):
        self.log.append(f"settle {self.name}")

    def over(self, ledger):
        self.log.append(f"tell {self.name}")


class Executor:
    """Begins at once, and is over when the test says so."""

    def __init__(self):
        self.overs = []

    def begin(self, batch, over):
        self.overs.append(over)
        return True

    async def aclose(self):
        pass


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("joins", "fault", "expected"),
    [
        (False, None, ["begin a", "settle a", "begin b", "tell a"]),
        (True, None, ["begin a", "settle a", "tell a", "begin b"]),
        (False, Internal("no"), ["begin a", "settle a", "tell a", "begin b"]),
    ],
    ids=["alone", "jobs join", "after a fault"],
)
async def test_what_waits_is_begun_before_callers_are_told_unless_more_may_join_it(joins, fault, expected):
    """Goal: an executor need not wait until answers are written; where jobs share executions, those who ask again are
    waited for. Method: two batches, and a note of each step."""
    log = []
    executor = Executor()
    waiting = [Noted("a", log), Noted("b", log)]
    feed = SimpleNamespace(
        scheduler=SimpleNamespace(joins=joins),
        ledger=SimpleNamespace(shares=False),
        cost=SimpleNamespace(learn=lambda *_: None),
        clock=trio.current_time,
        take=lambda _: waiting.pop(0) if waiting else None,
        rest=lambda _: None,
        idles=lambda _: False,
    )

    async def open_executor(context, nursery):
        return executor

    instance = TaskInstance(SimpleNamespace(name="noted_0"), feed, open_executor, lambda *_: None)
    held, waiting[:] = waiting[:], []
    async with trio.open_nursery() as nursery:
        await nursery.start(instance.run, 1.0)
        await wait_all_tasks_blocked()
        waiting += held
        instance.run_slice()
        executor.overs.pop()(fault)
        assert log == expected
        executor.overs.pop()(None)
        instance.retire()
    assert log == [*expected, "settle b", "tell b"]
