"""Threads that run one at a time, in turn with the trio thread and on its virtual clock.

    trio thread    SteppedThreads.run ──go──┐         ┌── pauses end, bells ring, time passes
                                            ▼         │
    a stepped one                  runs until it waits, sleeps or is interrupted

They are real threads that hand each other one baton, so what the engine takes for its threads' work is that. Whoever
has the baton runs alone: between two pauses nothing comes in between, and the seed decides who is next. A pause is
where a thread waits (`get`, `wait`), where a model sleeps, and, by chance, wherever `interrupt` is called.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable

import trio
import trio.testing

STUCK_S = 30.0
"""Real seconds after which a thread has not paused because it waits for something that is not stepped."""


class Killed(BaseException):
    """Raised in threads that a failed history leaves behind."""


class Stepped:
    """One thread."""

    def __init__(self, threads: SteppedThreads, target: Callable[[], object], name: str) -> None:
        self.held = 0
        """Rooms it is in: then it is not interrupted, for whoever wanted in would wait for ever."""
        self.busy_s = 0.0
        """Virtual seconds it has worked for: its CPU time."""
        self.killed = False
        self._threads = threads
        self._target = target
        self._go = threading.Lock()
        self._go.acquire()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """On the trio thread: lets it run until its next pause."""
        self._go.release()
        assert self._threads.back.acquire(timeout=STUCK_S), f"{self._thread.name} waits for what is not stepped"

    def pause(self) -> None:
        """On the thread itself: until it is stepped again."""
        if not self.killed:
            self._threads.back.release()
            self._go.acquire()
        if self.killed:
            raise Killed

    def join(self) -> None:
        self._thread.join(STUCK_S)

    def _run(self) -> None:
        self._go.acquire()
        self._threads.here.thread = self
        try:
            if not self.killed:
                self._target()
        except Killed:
            pass
        except BaseException as error:  # for `finish`
            self._threads.errors.append(error)
        self._threads.living.remove(self)
        self._threads.back.release()


class SteppedThreads:
    """The threads of one history: see engine/port/threads.py. `run` is the task that steps them."""

    run_by_themselves = False

    def __init__(self, chance: random.Random, clock: trio.testing.MockClock) -> None:
        self.chance = chance
        self.clock = clock
        self.back = threading.Semaphore(0)
        """Released when the baton comes back to the trio thread."""
        self.here = threading.local()
        self.living: list[Stepped] = []
        self.errors: list[BaseException] = []
        """What threads were ended by."""
        self.waits = 0
        """How often a thread has waited in a room."""
        self._all: list[Stepped] = []
        self._ready: list[Stepped] = []
        self._asleep: list[tuple[float, Stepped]] = []
        self._wake: trio.Event | None = None
        """Where the task waits for a thread to be ready."""

    # --- For the engine, and for models

    def start(self, target: Callable[[], object], name: str) -> None:
        thread = Stepped(self, target, name)
        self.living.append(thread)
        self._all.append(thread)
        self.make_ready(thread)

    def bell(self) -> SteppedBell:
        return SteppedBell(self)

    def room(self) -> SteppedRoom:
        return SteppedRoom(self)

    @property
    def current(self) -> Stepped | None:
        """The stepped thread that calls; None on the trio thread."""
        return getattr(self.here, "thread", None)

    def work(self, seconds: float) -> None:
        """A model computes for so long, on whatever thread: on the trio thread everybody else is held up."""
        thread = self.current
        if thread is None:
            self.clock.jump(seconds)
            return
        thread.busy_s += seconds
        self._sleep(thread, seconds)

    def interrupt(self) -> None:
        """The calling thread loses the processor, by chance, for a moment or for longer."""
        thread = self.current
        if thread is None or thread.held:
            return
        what = self.chance.random()
        if what < 0.1:
            self._sleep(thread, self.chance.expovariate(1 / 0.002))
        elif what < 0.5:
            self.make_ready(thread)
            thread.pause()

    # --- Clocks

    def monotonic_ns(self) -> int:
        """In the place of `time.monotonic_ns`."""
        self.interrupt()
        return round(self.clock.current_time() * 1e9)

    def thread_time_ns(self) -> int:
        """In the place of `time.thread_time_ns`."""
        thread = self.current
        return 0 if thread is None else round(thread.busy_s * 1e9)

    # --- Stepping, on the trio thread

    async def run(self) -> None:
        """Steps threads as they become ready, and lets everybody else have turns in between."""
        while True:
            if self.step():
                for _ in range(self.chance.choice([1, 1, 2, 5])):
                    await trio.lowlevel.checkpoint()
                continue
            self._wake = trio.Event()
            until = self._asleep[0][0] if self._asleep else float("inf")
            with trio.move_on_at(until):
                await self._wake.wait()
            self._wake = None

    def step(self) -> bool:
        """One step of a thread that is ready, if there is one."""
        now = self.clock.current_time()
        while self._asleep and self._asleep[0][0] <= now:
            self._ready.append(self._asleep.pop(0)[1])
        if not self._ready:
            return False
        self._ready.pop(self.chance.randrange(len(self._ready))).step()
        return True

    def finish(self) -> None:
        """After the run: lets those go on whom it has left behind, to their ends. Raises what ended any of all."""
        while self.step() or self._asleep:
            if not self._ready and self._asleep:
                self.clock.jump(max(0.0, self._asleep[0][0] - self.clock.current_time()))
        waiting = list(self.living)
        for thread in waiting:
            thread.killed = True
            thread.step()
        for thread in self._all:
            thread.join()
        if self.errors:
            raise self.errors[0]
        assert not waiting, "a thread waits for ever"

    # --- From anywhere: whoever calls has the baton

    def make_ready(self, thread: Stepped) -> None:
        self._ready.append(thread)
        if self._wake is not None:
            self._wake.set()

    def _sleep(self, thread: Stepped, seconds: float) -> None:
        self._asleep.append((self.clock.current_time() + seconds, thread))
        self._asleep.sort(key=lambda entry: entry[0])
        thread.pause()


class SteppedBell:
    """In the place of a `queue.SimpleQueue`."""

    def __init__(self, threads: SteppedThreads) -> None:
        self._threads = threads
        self._rung: deque[bool] = deque()
        self._waiting: Stepped | None = None

    def put(self, item: bool, /) -> None:
        self._rung.append(item)
        thread, self._waiting = self._waiting, None
        if thread is not None:
            self._threads.make_ready(thread)

    def get(self) -> bool:
        self._threads.interrupt()
        while not self._rung:
            self._waiting = thread = self._threads.current
            assert thread is not None, "the trio thread waits for no bell"
            thread.pause()
        return self._rung.popleft()


class SteppedRoom:
    """In the place of a `threading.Condition`. Nobody is ever met in it: threads pause outside only, or in `wait`."""

    def __init__(self, threads: SteppedThreads) -> None:
        self._threads = threads
        self._inside = False
        self._waiting: list[Stepped] = []

    def __enter__(self) -> None:
        self._threads.interrupt()
        assert not self._inside, "entered twice, or left by nobody"
        self._inside = True
        thread = self._threads.current
        if thread is not None:
            thread.held += 1

    def __exit__(self, *_: object) -> None:
        self._inside = False
        thread = self._threads.current
        if thread is not None:
            thread.held -= 1

    def wait(self) -> None:
        thread = self._threads.current
        assert thread is not None, "the trio thread waits for nobody"
        self._threads.waits += 1
        self._waiting.append(thread)
        held, thread.held = thread.held, 0
        self._inside = False
        try:
            thread.pause()
        finally:
            self._inside = True
            thread.held = held

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            self._threads.make_ready(thread)
