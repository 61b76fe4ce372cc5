"""Histories of a whole engine, by seed: see simulation.py. `make soak` plays more of them."""

import random

import pytest
import trio
import trio.testing

from tests.simulation.mix import missing
from tests.simulation.played import play, reached
from tests.simulation.simulation import simulate
from tests.simulation.threads import SteppedThreads

SEEDS = range(100)
pytestmark = pytest.mark.interpreted  # it notes on jobs what it knows of them


@pytest.mark.parametrize("seed", SEEDS)
def test_history(seed):
    """Goal: every request ends exactly once, order and bounds hold, books balance, nothing is left behind."""
    play(seed)


def test_histories_reach_everything():
    """Goal: each kind of executor, of end and of fault that the simulation is there to test has occurred."""
    for seed in SEEDS:
        play(seed)
    assert missing(reached()) == []


def test_a_seed_says_everything(tmp_path):
    """Goal: a history that fails can be played again, as it was."""
    assert simulate(3, tmp_path / "again") == play(3)


class TestSteppedThreads:
    @pytest.fixture
    def clock(self):
        return trio.testing.MockClock(autojump_threshold=0)

    @pytest.fixture
    def threads(self, clock):
        return SteppedThreads(random.Random(0), clock)

    def run(self, threads, clock, main):
        async def stepped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(threads.run)
                await main()
                nursery.cancel_scope.cancel()

        trio.run(stepped, clock=clock)
        threads.finish()

    def test_time_passes_for_all_alike(self, threads, clock):
        """Goal: a thread that works for 3 s ends before a task that sleeps for 4 s and after one that sleeps for 2."""
        heard = []

        async def main():
            threads.start(lambda: (threads.work(3), heard.append("thread")), "works")
            for seconds in (2, 2):
                await trio.sleep(seconds)
                heard.append(seconds)

        self.run(threads, clock, main)
        assert heard == [2, "thread", 2]

    def test_bells_and_rooms_wake_who_waits(self, threads, clock):
        """Goal: a thread waits in a bell, then in a room, and goes on each time that it is called."""
        bell, room, heard = threads.bell(), threads.room(), []

        def waits():
            heard.append(bell.get())
            with room:
                room.wait()
            heard.append("notified")

        async def main():
            threads.start(waits, "waits")
            await trio.sleep(1)
            assert heard == []
            bell.put(True)
            await trio.sleep(1)
            assert heard == [True]
            with room:
                room.notify_all()

        self.run(threads, clock, main)
        assert heard == [True, "notified"]

    def test_a_thread_that_waits_for_ever_is_found(self, threads, clock):
        """Goal: the history fails, and the thread does not stay behind."""
        bell = threads.bell()

        async def main():
            threads.start(bell.get, "waits")
            await trio.sleep(1)

        with pytest.raises(AssertionError, match="waits for ever"):
            self.run(threads, clock, main)
        assert threads.living == []

    def test_what_a_thread_raises_is_raised(self, threads, clock):
        """Goal: it fails the history."""

        async def main():
            threads.start(lambda: 1 / 0, "raises")
            await trio.sleep(1)

        with pytest.raises(ZeroDivisionError):
            self.run(threads, clock, main)
