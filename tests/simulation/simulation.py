"""One seed, one history: a whole engine on virtual time under callers, operators and faults, and what must hold.

    simulate(seed, directory)
     ├─ callers     requests with random models, priorities, timeouts, deadlines; some leave early
     ├─ operators   reload, unload, broken loads, overrides, now and then a stop in the middle of it all
     ├─ backend     executions that take time, raise, answer some, answer nobody, call sys.exit
     └─ watch       checks bounds and books every few virtual milliseconds

The seed decides everything but the order in which trio runs the tasks of one pass, which is random by design: a seed
that fails may need a few tries to fail again, so each failing seed deserves a unit test of what it found.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing
from despina.engine.engine import Engine, open_engine
from despina.engine.model.version import ModelVersion
from despina.engine.repository.registry import UNLOADED, State
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job, JobState
from despina.engine.schedule.timers import SWEEP_MIN
from despina.schema.fault import Fault, Internal, InvalidArgument
from despina.schema.wire.generated.inference import ModelQueuePolicyTimeoutAction

from tests.fakes import FakeBackend, answer, request, value_of, write_model

VIRTUAL_S_MAX = 120.0
"""A history takes a few virtual seconds. Whoever still waits after two minutes waits for ever."""

SCHEDULING = (
    "",
    "dynamic_batching {}",
    "dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 5000 }",
    "dynamic_batching { max_queue_delay_microseconds: 3000 default_queue_policy { max_queue_size: 6 } }",
    "dynamic_batching { preserve_ordering: true max_queue_delay_microseconds: 1000 "
    "default_queue_policy { default_timeout_microseconds: 9000 max_queue_size: 12 } }",
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 max_queue_delay_microseconds: 2000 "
    "default_queue_policy { default_timeout_microseconds: 30000 allow_timeout_override: true max_queue_size: 8 } "
    "priority_queue_policy { key: 1 value { default_timeout_microseconds: 8000 } } }",
    "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
    "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 6000 } }",
)


@attrs.define
class Books:
    """What the simulation itself knows, to hold the engine's account against."""

    accepted: Counter[ModelVersion] = attrs.field(factory=Counter)
    executed: Counter[ModelVersion] = attrs.field(factory=Counter)
    told: Counter[int] = attrs.field(factory=Counter)
    """Sequence number of a job -> times that `on_done` was called."""
    models: dict[Any, ModelVersion] = attrs.field(factory=dict)
    """By ledger."""
    jobs: list[Job] = attrs.field(factory=list)
    order: dict[tuple[ModelVersion, int], list[int]] = attrs.field(factory=lambda: defaultdict(list))
    """Sequence numbers by model version and level, as they were taken."""
    outcomes: Counter[str] = attrs.field(factory=Counter)
    started: int = 0
    ended: int = 0


class History:
    def __init__(self, seed: int, directory: Path) -> None:
        self.chance = random.Random(seed)
        self.directory = directory
        self.books = Books()
        self.backend = FakeBackend()
        self.backend.execute = self.execute
        self.names = [f"m{index}" for index in range(self.chance.randint(1, 4))]
        self.violations: list[AssertionError] = []
        self.overload = self.chance.random() < 0.3
        self.touches = 0

    # --- The run

    async def run(self) -> None:
        chance = self.chance
        for name in self.names:
            self.write(name)
        living = trio.lowlevel.current_statistics().tasks_living
        exit_timeout_s = chance.choice([0, 0.01, 5])
        cut_short = chance.random() < 0.3
        with trio.fail_after(VIRTUAL_S_MAX):
            async with trio.open_nursery() as outside:
                try:
                    async with open_engine(
                        self.directory,
                        backends={"fake": self.backend},
                        model_control_mode="explicit",
                        load_model="*",
                        exit_timeout_secs=exit_timeout_s if cut_short else 30,
                        queue_size_max=chance.choice([20, 100_000]),
                    ) as engine:
                        watched = trio.Event()
                        outside.start_soon(self.watch, engine, watched)
                        async with trio.open_nursery() as nursery:
                            actors: list[Callable[[Engine], Any]] = [self.caller] * chance.randint(2, 24)
                            actors += [self.operator] * chance.randint(0, 3)
                            chance.shuffle(actors)
                            for actor in actors:
                                # Those outside are still there when the engine has gone.
                                (outside if cut_short else nursery).start_soon(actor, engine)
                            if cut_short:
                                await trio.sleep(chance.uniform(0, 0.3))
                        watched.set()
                        if not cut_short:
                            await self.settle(engine)
                except Internal as fault:
                    if not (cut_short and fault.message.startswith("Exit timeout expired.")):
                        raise
        self.check_end(living)

    def write(self, name: str) -> None:
        chance = self.chance
        scheduling = chance.choice(SCHEDULING)
        write_model(
            self.directory,
            name,
            versions=(1, 2) if chance.random() < 0.3 else (1,),
            max_batch_size=chance.choice([4, 8] if "preferred" in scheduling else [1, 4, 8]),
            instances=chance.choice([1, 1, 2, 3]),
            more=scheduling + (" version_policy { all {} }" if chance.random() < 0.5 else ""),
        )
        self.touch(name)

    def touch(self, name: str) -> None:
        self.touches += 1
        # A configuration that only looks newer, or differs in instances only, is no reason to open a model again.
        path = self.directory / name / self.chance.choice(["config.pbtxt", "1"])
        stamp = path.stat().st_mtime_ns + self.touches * 1_000_000_000
        os.utime(path, ns=(stamp, stamp))

    # --- Actors

    async def caller(self, engine: Engine) -> None:
        chance = self.chance
        for _ in range(chance.randint(10, 80)):
            await trio.sleep(0 if self.overload else chance.expovariate(1 / 0.003))
            self.books.started += 1
            value = self.books.started
            options: dict[str, Any] = {"priority": chance.choice([0, 0, 1, 2, 3, 9])}
            if chance.random() < 0.2:
                options["timeout_us"] = chance.choice([1, 2000, 10_000_000])
            if chance.random() < 0.1:
                options["model_version"] = chance.choice([1, 2, 3])
            name = chance.choice(self.names) if chance.random() < 0.97 else "nobody"
            rows = chance.choice([1] * 12 + [2, 2, 3, 4, 9])
            ask = request(name, value, rows=rows, **options)
            deadline = trio.current_time() + chance.uniform(-0.001, 0.05) if chance.random() < 0.3 else 0.0
            outcome = "left"
            with trio.move_on_after(chance.uniform(0, 0.03) if chance.random() < 0.3 else float("inf")):
                try:
                    response = await engine.infer_request(ask, deadline=deadline)
                    assert value_of(response) == value, "somebody else's answer"
                    outcome = "answered"
                except Fault as fault:
                    outcome = type(fault).__name__
            self.books.outcomes[outcome] += 1
            self.books.ended += 1

    async def operator(self, engine: Engine) -> None:
        chance = self.chance
        for _ in range(chance.randint(1, 10)):
            await trio.sleep(chance.expovariate(1 / 0.02))
            name = chance.choice([*self.names, "nobody"])
            what = chance.random()
            self.backend.open_errors.clear()
            if what > 0.7:
                self.backend.open_errors[name, chance.choice([1, 2])] = chance.choice(
                    [RuntimeError("boom"), InvalidArgument("bad file"), SystemExit(1)]
                )
            with trio.move_on_after(chance.uniform(0, 0.02) if chance.random() < 0.2 else float("inf")):
                try:
                    if what < 0.15:
                        await engine.unload(name)
                        await trio.sleep(chance.choice([0, 0.005]))
                        await engine.load(name)
                    elif what < 0.2:
                        await engine.unload(name)
                    elif what < 0.25:
                        await engine.load(name, config="{")
                    else:
                        if name != "nobody":
                            self.write(name) if chance.random() < 0.5 else self.touch(name)
                        await engine.load(name)
                except Fault as fault:
                    self.books.outcomes[f"load: {type(fault).__name__}"] += 1

    async def execute(self, batch: Batch) -> None:
        chance = self.chance
        try:
            self.check_batch(batch)
        except AssertionError as error:  # raised here it would count as the model's own failure
            self.violations.append(error)
            raise
        await trio.sleep(chance.choice([0, 0.001, 0.005, chance.expovariate(1 / 0.01)]))
        what = chance.random()
        if what < 0.05:
            raise RuntimeError("the model raised")
        if what < 0.06:
            raise SystemExit(1)
        if what < 0.1:
            return
        if what < 0.15:
            chance.choice(batch.jobs).fail(InvalidArgument("not this one"))
        answer(batch)

    def check_batch(self, batch: Batch) -> None:
        assert batch.jobs, "an empty batch"
        model = self.books.models[batch.jobs[0].ledger]
        self.books.executed[model] += 1
        assert all(job.ledger is model.ledger for job in batch.jobs)
        assert all(job.state is JobState.EXECUTING for job in batch.jobs)
        assert not any(job.is_cancelled() for job in batch.jobs), "executed for nobody"
        assert batch.size == sum(job.batch_size for job in batch.jobs) <= model.config.max_batch_size
        assert len(batch.jobs) == 1 or model.config.dynamic_batching
        lowest = max(job.level for job in batch.jobs)
        urgent = [level for level in model.scheduler.levels.in_use if level.live and level.number < lowest]
        assert not urgent, "an urgent request was passed over"
        for job in batch.jobs:
            self.books.order[model, job.level].append(int(job.request.inputs["IN"].numpy().ravel()[0]))

    async def watch(self, engine: Engine, until: trio.Event) -> None:
        while not until.is_set():
            check_now(engine)
            await trio.sleep(0.003)

    async def settle(self, engine: Engine) -> None:
        """Until nothing is under way: then everybody must be idle and every account closed."""
        await trio.sleep(10)
        for model in engine.versions():
            assert (model.ledger.inflight, model.pending) == (0, 0)
        check_now(engine)

    # --- The end

    def check_end(self, living: int) -> None:
        if self.violations:
            raise self.violations[0]
        books, backend = self.books, self.backend
        assert books.started == books.ended
        assert trio.lowlevel.current_statistics().tasks_living == living, "a task was left behind"
        assert backend.instances_open == 0
        assert sorted(backend.opened) == sorted(backend.closed)
        for job in books.jobs:
            assert job.state not in (JobState.QUEUED, JobState.EXECUTING)
            assert job.on_done is None, "somebody was never told"
        assert not [value for value, count in books.told.items() if count > 1], "somebody was told twice"
        for model, accepted in books.accepted.items():
            statistics = model.statistics
            assert statistics.success_count + statistics.fail_count == accepted
            assert statistics.fail_count == sum(statistics.failures.values())
            assert statistics.execution_count == sum(row[0] for row in statistics.batches.values())
            assert statistics.execution_count <= books.executed[model]
            assert (model.ledger.inflight, model.scheduler.live) == (0, 0)
            assert not any(level.live for level in model.scheduler.levels.in_use)
        for (model, _), order in books.order.items():
            batching = model.config.dynamic_batching
            policy = batching.default_queue_policy if batching is not None else None
            if policy is None or policy.timeout_action != ModelQueuePolicyTimeoutAction.DELAY:
                assert order == sorted(order), "served out of turn"


def check_now(engine: Engine) -> None:
    """What holds between any two steps of the engine."""
    for name, entry in engine.registry.models.items():
        for number, version in entry.versions.items():
            assert (version.model is not None) == (version.state is State.READY)
            if version.state is State.READY:
                assert engine.model(name, number) is version.model
        ready = entry.ready()
        if ready:
            assert engine.model(name) is ready[-1]
    strict = all(
        version.state is State.READY or version.reason == UNLOADED
        for entry in engine.registry.models.values()
        for version in entry.versions.values()
    )
    assert engine.health().ready == strict
    for model in engine.versions():
        queue = model.scheduler
        for level in queue.levels.in_use:
            queued = sum(job.state is JobState.QUEUED for job in (*level.jobs, *level.delayed))
            assert 0 <= level.live == queued
            assert not level.size_max or level.live <= level.size_max
        stored = sum(map(len, queue.levels.in_use))
        assert queue.live == sum(level.live for level in queue.levels.in_use) <= queue.size_max
        assert queue.levels.tombstones == stored - queue.live
        assert model.ledger.inflight >= queue.live
        assert len(set(map(id, queue.idle))) == len(queue.idle) <= len(model.instances.status())
        assert len(model.limits.timers) <= 2 * SWEEP_MIN + 8 * model.ledger.inflight


@contextmanager
def recorded(history: History) -> Iterator[None]:
    """Notes every accepted job and every answer; blocking work runs inline after a virtual while."""
    submit, run_sync = ModelVersion.submit, trio.to_thread.run_sync
    books, chance = history.books, history.chance

    def noted(self: ModelVersion, request: Any, on_done: Callable[[Job], None], deadline: float = 0.0) -> Job:
        value = int(request.inputs["IN"].numpy().ravel()[0])

        def told(job: Job) -> None:
            books.told[value] += 1
            on_done(job)

        books.models[self.ledger] = self
        job = submit(self, request, told, deadline)
        books.accepted[self] += 1
        books.jobs.append(job)
        return job

    async def slow(function: Callable[..., Any], *args: Any, limiter: Any = None, **_: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            if limiter is not None:
                await limiter.acquire()
            try:
                await trio.sleep(chance.choice([0, 0.001, 0.01]))
                return function(*args)
            finally:
                if limiter is not None:
                    limiter.release()

    ModelVersion.submit = noted  # type: ignore[method-assign]
    trio.to_thread.run_sync = slow  # type: ignore[assignment]
    try:
        yield
    finally:
        ModelVersion.submit = submit  # type: ignore[method-assign]
        trio.to_thread.run_sync = run_sync


def simulate(seed: int, directory: Path) -> Counter[str]:
    """Plays one history. Returns how its requests ended; raises AssertionError, or TooSlowError for a hang."""
    directory.mkdir(parents=True, exist_ok=True)
    history = History(seed, directory)
    threads = threading.active_count()
    logging.disable(logging.CRITICAL)
    try:
        with recorded(history):
            trio.run(history.run, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.disable(logging.NOTSET)
    assert threading.active_count() <= threads, "a thread was left behind"  # earlier tests' may go meanwhile
    gc.collect(0)
    return history.books.outcomes
