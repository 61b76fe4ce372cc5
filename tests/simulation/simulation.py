"""One seed, one history: a whole engine on virtual time under callers, operators and faults, and what must hold.

    simulate(seed, directory)
     ├─ actors.py     callers, doors, operators; now and then a stop in the middle of it all
     ├─ models.py     all kinds of executors; executions that take time, fail and die; streams
     ├─ pipelined.py  executors that are given what they execute next while they execute
     ├─ threads.py    executors' threads, stepped one at a time
     ├─ books.py      what became of each request, against the engine's own account
     └─ watch.py      bounds and books, every few virtual milliseconds

The seed decides everything that happens, so a history that fails can be played again. What it reaches is counted as it
happens: see mix.py.
"""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing
from despina.engine.engine import Engine
from despina.engine.model.version import ModelVersion
from despina.engine.opening import open_engine
from despina.engine.port.resources import Resource, ResourceLimit
from despina.engine.port.settings import Restart, Stop
from despina.engine.port.threads import THREADS
from despina.engine.request.batch import Batch
from despina.engine.request.job import JobState
from despina.engine.schedule.scheduler import Scheduler
from despina.schema.fault import Fault, Internal
from despina.schema.inference import InferenceRequest

from tests.simulation.actors import caller, door, operator
from tests.simulation.books import Books
from tests.simulation.models import LIMITS, Backend, Troubles, Writer
from tests.simulation.noting import noted
from tests.simulation.threads import SteppedThreads
from tests.simulation.watch import Watch, check_quiet

VIRTUAL_S_MAX = 120.0
"""A history takes a few virtual seconds. Whoever still waits after two minutes waits for ever."""


class History:
    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.threads = SteppedThreads(chance, self.clock)
        self.books = Books()
        self.troubles = Troubles()
        self.directory = directory
        self.backends = {name: Backend(self, name) for name in ("awaited", "threads", "movable")}
        self.names = [f"m{index}" for index in range(chance.randint(1, 4))]
        ensembles = random.Random(f"ensembles {seed}").choice([0, 0, 1, 2])  # of its own: the others stay as they are
        self.names += [f"e{index}" for index in range(ensembles)]
        self.has_ensembles = bool(ensembles)
        """There is room for all models then: one that asks more than there is room for is never served."""
        self.pipelined = seed % 5 == 4
        """Models are such that their executors are given what they execute next while they execute."""
        self.models = Writer(chance, directory, self.names, pipelined=self.pipelined)
        self.versions: dict[Scheduler, ModelVersion] = {}
        """Whose scheduler that is."""
        self.pause_s = chance.choice([0, 0, 0.003, 0.003, 0.003, 0.03])
        """Of callers between two requests, on average: 0 overloads the models, the last one leaves them idle."""
        self.cut_short = chance.random() < 0.3
        """The engine stops in the middle of it all."""
        self.outlived = self.cut_short and chance.random() < 0.5
        """Threads that were given up go on when the run has ended."""
        self.limited = chance.random() < 0.4 and not self.pipelined
        """Instances share resources."""
        self.used: Counter[str] = Counter()
        """How much of each resource is in use."""
        self.waiting: list[str] = []
        """What had not ended after a long time, and what everybody did then."""
        self._numbers = 0
        self._place: str | None = None
        """Where what executes on the trio thread does so; None where that is the task's own turn."""

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    @contextmanager
    def placing(self, place: str) -> Iterator[None]:
        """What executes meanwhile on the trio thread executes there."""
        before, self._place = self._place, place
        try:
            yield
        finally:
            self._place = before

    def is_decoupled(self, engine: Engine, request: InferenceRequest) -> bool:
        try:
            return engine.model(request.model_name, request.model_version).decoupled
        except Fault:
            return False

    def has_sequences(self, engine: Engine, name: str) -> bool:
        try:
            return engine.model(name).config.sequence_batching is not None
        except Fault:
            return False

    # --- The run

    async def run(self) -> None:
        THREADS.set(self.threads)
        for name in self.names:
            self.models.write(name)
        living = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(VIRTUAL_S_MAX):
            async with trio.open_nursery() as stepping:
                stepping.start_soon(self.threads.run)
                async with trio.open_nursery() as outside:
                    await self._serve(outside)
                while self.threads.living and not self.outlived:  # noqa: ASYNC110  threads that were given up set none
                    await trio.sleep(0.01)
                stepping.cancel_scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == living, "a task was left behind"

    async def _serve(self, outside: trio.Nursery) -> None:
        chance = self.chance
        exit_timeout_s = chance.choice([0, 0.01, 5]) if self.cut_short else 30
        on_request = chance.random() < 0.4
        self.books.some_wait_first = on_request
        restart = Restart(limit=chance.choice([1, 100]), backoff_min_s=0.001, backoff_max_s=chance.choice([0.01, 0.5]))
        try:
            async with open_engine(
                self.directory,
                backends=self.backends,
                model_control_mode="explicit",
                load_model=chance.choice(["*", self.names[0]]) if on_request else "*",
                load_on_request=on_request,
                loaded_models_max=chance.choice([0, 1, 2]) if on_request and not self.has_ensembles else 0,
                load_wait_secs=chance.choice([0.05, 5]),
                exit_on_error=False,
                exit_timeout_secs=exit_timeout_s,
                queue_size_max=chance.choice([20, 100_000]),
                stream_responses_max=chance.choice([1, 2, 64]),
                queue_order="arrival" if self.pipelined else chance.choice(["arrival", "adaptive"]),
                rate_limit="execution_count" if self.limited else "off",
                rate_limit_resource=[ResourceLimit(name=name, count=count) for name, count in LIMITS.items()],
                fair_queueing="" if self.pipelined else chance.choice(["", "who"]),
                restart=chance.choice([restart, restart, restart, Stop()]),
                queue_while_down=chance.choice(["keep", "refuse"]),
            ) as engine:
                watched = trio.Event()
                outside.start_soon(self._watch, engine, watched)
                async with trio.open_nursery() as nursery:
                    actors: list[Callable[[History, Engine], Any]] = [caller] * chance.randint(1, 16)
                    actors += [door] * chance.randint(1, 6)
                    actors += [operator] * chance.randint(0, 3)
                    chance.shuffle(actors)
                    for actor in actors:
                        # Those outside are still there when the engine has gone.
                        (outside if self.cut_short else nursery).start_soon(actor, self, engine)
                    if self.cut_short:
                        await trio.sleep(chance.uniform(0, 0.3))
                watched.set()
                self.books.mix["loads: evicted"] += engine._repository.leases.evicted
                if not self.cut_short:
                    await self._settle(engine)
        except Internal as fault:
            if trio.current_effective_deadline() == float("-inf"):
                raise AssertionError(f"somebody waits for ever: {self.waiting}") from fault
            if not (self.cut_short and fault.message.startswith("Exit timeout expired.")):
                raise

    async def _watch(self, engine: Engine, until: trio.Event) -> None:
        began = trio.current_time()
        watch = Watch()
        while not until.is_set():
            watch.look(engine)
            if trio.current_time() - began > VIRTUAL_S_MAX / 2 and not self.waiting:
                self.waiting = [*self.books.undecided(), *map(str, engine.status())]
            await trio.sleep(0.003)

    async def _settle(self, engine: Engine) -> None:
        """Until nothing is under way: then everybody must be idle and every account closed."""
        self.troubles.instances = None
        await trio.sleep(10)
        check_quiet(engine)

    # --- For models

    def note_execution(self, batch: Batch) -> None:
        """An execution begins."""
        books = self.books
        where = self._where(batch)
        books.mix[f"executions: {where}"] += 1
        if batch.reason == "warmup":
            return
        with books.asserting():
            given_up = books.mix["instances: threads abandoned"] and self.threads.current is not None
            assert given_up or all(job.state is JobState.EXECUTING for job in batch.jobs)
            books.executed[batch.jobs[0].ledger] += 1

    @contextmanager
    def using(self, needs: Sequence[Resource]) -> Iterator[None]:
        """For the length of an execution. A thread that was given up goes on with what others may have by now."""
        for need in needs:
            self.used[need.name] += need.count
        if self.limited and not self.books.mix["instances: threads abandoned"]:
            with self.books.asserting():
                assert all(self.used[name] <= count for name, count in LIMITS.items()), f"more is used: {self.used}"
        try:
            yield
        finally:
            for need in needs:
                self.used[need.name] -= need.count

    def _where(self, batch: Batch) -> str:
        if batch.reason == "warmup":
            return "warm-up"
        if self.threads.current is not None:
            return "thread"
        if self._place is not None:
            return self._place
        task = trio.lowlevel.current_task().name
        if "TaskInstance" in task or "Instances" in task:
            return "awaited"
        return "inline by its task" if "InlineRunner" in task else "inline, handed over by a thread or timer"

    # --- The end

    def check_end(self) -> None:
        """After everything has ended, threads too."""
        if self.books.violations:
            raise self.books.violations[0]
        for backend in self.backends.values():
            assert backend.instances_open == 0
            assert sorted(backend.opened) == sorted(backend.closed)
        self.books.mix["streams: waits of senders"] += self.threads.waits
        self.books.check()


def simulate(seed: int, directory: Path) -> Counter[str]:
    """Plays one history. Returns what it reached; raises AssertionError, or TooSlowError for a hang."""
    directory.mkdir(parents=True, exist_ok=True)
    history = History(seed, directory)
    threads = threading.active_count()
    with noted(history):
        try:
            trio.run(history.run, clock=history.clock)
        finally:
            history.threads.finish()
    history.check_end()
    assert threading.active_count() <= threads, "a thread was left behind"  # earlier tests' may go meanwhile
    gc.collect(0)
    return history.books.mix
