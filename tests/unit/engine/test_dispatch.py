"""Doors served within trio's wait: nobody else waits longer, and where trio is not as expected all works as well."""

from __future__ import annotations

import contextvars
import os
import select
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from despina.engine.port import dispatch as module
from despina.engine.port.dispatch import Dispatcher, Watch, dispatch
from despina.engine.port.doors import EVENTS_MAX, Doors

AROUND = contextvars.ContextVar("AROUND", default="nothing")


class Bell:
    """A descriptor that is readable after each `ring`; `answer` is what a door does of it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.heard = 0
        self._more = trio.Event()

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def answer(self) -> None:
        self.heard += os.eventfd_read(self.fd)
        self._more.set()

    async def has_heard(self, count: int = 1) -> None:
        while self.heard < count:
            self._more = trio.Event()
            await self._more.wait()


@pytest.fixture
def bell():
    made = Bell()
    yield made
    os.close(made.fd)


class Turns(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


def run(main):
    """In true time, where doors are served directly."""

    async def bounded():
        with trio.fail_after(20):
            await main()

    trio.run(bounded)


def test_serving_takes_no_turn(bell):
    """Goal: a door hears a hundred rings without a turn of the scheduler for each, as itself and in its context."""
    seen = []

    async def main():
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        async with trio.open_nursery() as nursery:

            def answer():
                bell.answer()
                if bell.heard < 100:
                    bell.ring()
                else:
                    seen.append((trio.lowlevel.current_task().name, AROUND.get(), turns.count))
                    nursery.cancel_scope.cancel()

            AROUND.set("the door")
            nursery.start_soon(dispatch, bell.fd, answer, name="door")
            bell.ring()
        assert isinstance(module._dispatcher(), Dispatcher), "this version of trio is known"

    run(main)
    ((name, around, turns),) = seen
    assert (name, around) == ("door", "the door")
    assert turns < 10


def test_a_busy_door_keeps_nobody_waiting(bell):
    """Goal: sleepers, threads that call back, other descriptors and tasks that the door wakes all get their turns while
    the door always has something."""

    async def main():
        other, done, woken = Bell(), [], trio.Event()

        def answer():
            bell.answer()
            bell.ring()
            if bell.heard == 1000:
                woken.set()

        async def note(name, wait):
            await wait()
            done.append(name)

        async def hear():
            await trio.lowlevel.wait_readable(other.fd)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, bell.fd, answer)
            bell.ring()
            async with trio.open_nursery() as waiting:
                waiting.start_soon(note, "slept", partial(trio.sleep, 0.02))
                waiting.start_soon(
                    note, "thread", partial(trio.to_thread.run_sync, trio.from_thread.run_sync, other.ring)
                )
                waiting.start_soon(note, "descriptor", hear)
                waiting.start_soon(note, "woken", woken.wait)
            nursery.cancel_scope.cancel()
        os.close(other.fd)
        assert sorted(done) == ["descriptor", "slept", "thread", "woken"]

    run(main)


def test_an_idle_door_keeps_nobody_waiting(bell):
    """Goal: the same where the door has nothing: deadlines come in time, and `wait_all_tasks_blocked` ends."""

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, bell.fd, bell.answer)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            timer = threading.Timer(0.01, bell.ring)
            timer.start()
            await bell.has_heard()
            nursery.cancel_scope.cancel()

    run(main)


def test_two_doors(bell):
    """Goal: both are served, in turn; one that ends leaves the other."""
    other = Bell()

    async def main():
        async with trio.open_nursery() as nursery:
            first, gone = trio.CancelScope(), trio.Event()

            async def short_lived():
                with first:
                    await dispatch(bell.fd, bell.answer)
                gone.set()

            def answer():
                other.answer()
                if other.heard < 10:
                    bell.ring()
                    other.ring()
                else:
                    first.cancel()

            nursery.start_soon(short_lived)
            nursery.start_soon(dispatch, other.fd, answer)
            other.ring()
            await gone.wait()
            assert bell.heard == 9
            other.ring()
            await other.has_heard(11)
            nursery.cancel_scope.cancel()

    run(main)
    os.close(other.fd)


@pytest.mark.parametrize("is_direct", [True, False])
def test_what_serving_raises(bell, is_direct, monkeypatch):
    """Goal: it comes out of `dispatch`, which can be called again. Also where trio is not as expected."""
    if not is_direct:

        def unknown(_):
            raise AttributeError("no such thing")

        monkeypatch.setattr(Dispatcher, "__init__", unknown)

    async def main():
        async def failing():
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    await dispatch(bell.fd, lambda: 1 // 0)
            await dispatch(bell.fd, bell.answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            bell.ring()
            await bell.has_heard()
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.interpreted
def test_waiting_that_breaks(bell, monkeypatch):
    """Goal: the door hears that waiting is not possible, and may try again: trio drops an instrument that raises."""
    failures = iter([OSError("no"), MemoryError()])
    serve = Doors.serve

    def breaks(self, timeout):
        for failure in failures:
            raise failure
        return serve(self, timeout)

    monkeypatch.setattr(Doors, "serve", breaks)

    async def main():
        async def failing():
            with pytest.raises(OSError, match="no"):
                await dispatch(bell.fd, bell.answer)
            with pytest.raises(MemoryError):
                await dispatch(bell.fd, bell.answer)
            await dispatch(bell.fd, bell.answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            bell.ring()
            await bell.has_heard()
            nursery.cancel_scope.cancel()

    run(main)


def test_raising_when_cancelled_already(bell):
    """Goal: a door that breaks after it was cancelled is woken once."""

    async def main():
        async with trio.open_nursery() as nursery:

            def answer():
                nursery.cancel_scope.cancel()
                raise ValueError

            nursery.start_soon(dispatch, bell.fd, answer)
            bell.ring()

    run(main)


async def test_virtual_time(bell, autojump_clock):
    """Goal: the clock jumps while a door waits, and the door hears all the same."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatch, bell.fd, bell.answer)
        await trio.sleep(3600)
        bell.ring()
        await trio.sleep(3600)
        assert bell.heard == 1
        assert not isinstance(module._dispatcher(), Dispatcher)
        nursery.cancel_scope.cancel()


def test_many_descriptors_at_once(bell):
    """Goal: what epoll reports beside doors are trio's events only."""
    bells = [Bell() for _ in range(50)]

    async def main():
        async with trio.open_nursery() as nursery:
            for one in bells:
                nursery.start_soon(dispatch, one.fd, one.answer)
            await trio.testing.wait_all_tasks_blocked()
            for one in bells:
                one.ring()
            for one in bells:
                await one.has_heard()
            nursery.cancel_scope.cancel()

    run(main)
    assert all(not select.select([one.fd], [], [], 0)[0] for one in bells)
    for one in bells:
        os.close(one.fd)


def test_nobody_has_a_deadline(bell):
    """Goal: after a door was served that has made nobody runnable, the wait for the next has no end, which epoll must
    not be told."""
    heard = threading.Semaphore(0)

    def serve():
        os.eventfd_read(bell.fd)
        heard.release()

    def ring(over, token):
        for _ in range(3):
            bell.ring()
            heard.acquire(timeout=10)
        token.run_sync_soon(over.set)

    async def main():
        over = trio.Event()
        ringing = threading.Thread(target=ring, args=(over, trio.lowlevel.current_trio_token()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, bell.fd, serve)
            ringing.start()
            await over.wait()
            nursery.cancel_scope.cancel()
        ringing.join()

    trio.run(main)


def test_deadlines_that_count_no_more(bell):
    """Goal: deadlines that were earlier, and are over, wake nobody, and the next one is kept. Method: a door is asked,
    while it is served, how long trio would wait."""
    left = []

    async def main():
        doors = module._dispatcher().doors

        def serve():
            bell.answer()
            if bell.heard == 4:  # the last
                left.append(doors._left())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, bell.fd, serve)
            for seconds in (0.5, 0.2, 0.3):
                with trio.move_on_after(seconds):
                    bell.ring()
                    await bell.has_heard(1)
            ringing = threading.Timer(0.05, bell.ring)
            ringing.start()
            began = trio.current_time()
            await trio.sleep(1)
            left.append(trio.current_time() - began)
            ringing.join()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert 0.5 < left[0] < 1
    assert 1 <= left[1] < 10


def test_another_clock(bell):
    """Goal: a clock that is not trio's own is asked by trio alone, and doors are served."""

    class Late(trio.abc.Clock):
        offset = 0.0

        def start_clock(self):
            pass

        def current_time(self):
            return time.monotonic() / 2

        def deadline_to_sleep_time(self, deadline):
            return 2 * (deadline - self.current_time())

    async def main():
        assert module._dispatcher() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, bell.fd, bell.answer)
            bell.ring()
            await bell.has_heard()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=Late())


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_watch_of_many(is_direct, monkeypatch):
    """Goal: what is registered, changed and left before, while and after it is dispatched is watched for just that; a
    pass finds so much and no more, of one door only."""
    if not is_direct:
        monkeypatch.setattr(module, "_dispatcher", lambda: None)
    bells = [Bell() for _ in range(EVENTS_MAX + 10)]
    late, other = Bell(), Bell()
    watch = Watch()
    passes = []

    async def main():
        over = trio.Event()
        by_fd = {one.fd: one for one in (*bells, late)}

        def serve(found):
            passes.append([fd for fd, _ in found])
            for fd, events in found:
                assert events == select.EPOLLIN
                by_fd[fd].answer()
            if len(passes) == 1:
                watch.register(late.fd, 0)
                watch.modify(late.fd, select.EPOLLIN)
                watch.modify(bells[0].fd, 0)
                watch.unregister(bells[1].fd)
                for one in (late, *bells):
                    one.ring()
            if late.heard and all(one.heard for one in bells[2:]):
                over.set()

        for one in bells:
            watch.register(one.fd, 0)
        for one in bells:
            watch.modify(one.fd, select.EPOLLIN)
            one.ring()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatch, other.fd, other.answer)
            nursery.start_soon(watch.dispatch, serve)
            other.ring()
            await other.has_heard()
            await over.wait()
            nursery.cancel_scope.cancel()
        assert bells[2].fd in watch
        assert bells[1].fd not in watch

    run(main)
    assert max(map(len, passes)) <= EVENTS_MAX
    rest = {fd for found in passes[1:] for fd in found}
    assert rest & {bells[0].fd, bells[1].fd} <= set()
    assert all(one.heard for one in bells[2:])
    for one in (*bells, late, other):
        os.close(one.fd)


def test_dispatched_again(bell):
    """Goal: what was registered before serving failed, and while nobody was served, is watched for afterwards."""
    other = Bell()
    watch = Watch()

    async def main():
        watch.register(bell.fd, select.EPOLLIN)
        bell.ring()
        with pytest.raises(ZeroDivisionError):
            await watch.dispatch(lambda found: 1 // 0)
        watch.register(other.fd, select.EPOLLIN)

        def serve(found):
            for fd, _ in found:
                (bell if fd == bell.fd else other).answer()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.dispatch, serve)
            await bell.has_heard()
            other.ring()
            await other.has_heard()
            nursery.cancel_scope.cancel()

    run(main)
    os.close(other.fd)


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_descriptor_that_cannot_be_watched(bell, is_direct, monkeypatch):
    """Goal: the kernel's refusal comes out, that one is not watched, and the others are given back."""
    if not is_direct:
        monkeypatch.setattr(module, "_dispatcher", lambda: None)
    watch = Watch()

    async def main():
        heard = trio.Event()

        def serve(found):
            bell.answer()
            with pytest.raises(PermissionError):
                watch.register(file, select.EPOLLIN)  # a file is always ready
            heard.set()

        watch.register(bell.fd, select.EPOLLIN)
        bell.ring()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.dispatch, serve)
            await heard.wait()
            nursery.cancel_scope.cancel()
        assert file not in watch
        watch.register(file, select.EPOLLIN)
        with pytest.raises(PermissionError):
            await watch.dispatch(serve)
        watch.unregister(file)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.dispatch, lambda found: bell.answer())
            bell.ring()
            await bell.has_heard(2)
            nursery.cancel_scope.cancel()

    with Path(__file__).open() as opened:
        file = opened.fileno()
        run(main)
