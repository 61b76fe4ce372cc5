"""What signals do to a server, in virtual time."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.testing
from despina.frontends.cli import stopping as stopping_module
from despina.frontends.cli.stopping import Stopping, signals_to_watch


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which the process would have ended at once."""
    codes = []
    monkeypatch.setattr(stopping_module, "end_now", codes.append)
    return codes


async def after(events, stopping):
    """Plays (seconds after the last one, signal) to it."""
    send, receive = trio.open_memory_channel(len(events))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stopping.watch, receive)
        for delay, number in events:
            await trio.sleep(delay)
            send.send_nowait(number)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_first_begins_the_end(autojump_clock, ended, number):
    """Goal: asked once, what is pointless is cancelled, and the time runs from then."""
    stopping = Stopping(30)
    await after([(2, number)], stopping)
    assert stopping.asked.is_set()
    assert stopping.before.cancel_called
    assert stopping.deadline == pytest.approx(32)
    assert ended == []


@pytest.mark.parametrize(
    ("again", "codes"),
    [
        ((0.9, signal.SIGINT), []),
        ((1.1, signal.SIGINT), [1]),
        ((0.1, signal.SIGTERM), []),
        ((20, signal.SIGTERM), []),
        ((20, signal.SIGHUP), []),
    ],
)
async def test_the_second(autojump_clock, ended, again, codes):
    """Goal: only somebody at a terminal, who has waited a second, ends what is in flight; the time is not put back."""
    stopping = Stopping(30)
    await after([(0, signal.SIGTERM), again], stopping)
    assert ended == codes
    assert stopping.deadline == pytest.approx(30)
    assert stopping.exit_code == 0


async def test_time_over(autojump_clock, ended):
    """Goal: past the time and its grace the process ends, with code 1."""
    stopping = Stopping(3)
    await after([(0, signal.SIGTERM), (3.4, signal.SIGTERM), (0.2, signal.SIGTERM)], stopping)
    assert ended == [1]
    assert stopping.exit_code == 1


async def test_hang_up_with_something_to_read_anew(autojump_clock, ended):
    """Goal: it is done as often as asked, also while the server stops."""
    opened = []
    stopping = Stopping(30, lambda: opened.append(stopping.asked.is_set()))
    await after([(0, signal.SIGHUP), (1, signal.SIGTERM), (5, signal.SIGHUP)], stopping)
    assert opened == [False, True]
    assert ended == []


def test_nohup():
    """Goal: a hang-up that whoever started the server had ignored stays ignored."""
    before = signal.getsignal(signal.SIGHUP)
    assert signal.SIGHUP in signals_to_watch()
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signals_to_watch() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)
