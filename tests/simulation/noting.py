"""Notes what an engine does while it does it, and puts a history's time and threads in the place of the system's."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import trio
import trio._core._run
from despina.engine.execute.instances import Instances
from despina.engine.execute.limited import Seat, SharedResources
from despina.engine.execute.warmup import Warmup
from despina.engine.model.ensemble import stream_run
from despina.engine.model.ensemble.version import EnsembleVersion
from despina.engine.model.version import ModelVersion
from despina.engine.port.backend import InstanceContext
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.engine.request.ledger import Ledger
from despina.engine.request.stream import Answer, StreamJob
from despina.engine.schedule import standing
from despina.engine.schedule.dynamic import DynamicBatcher
from despina.engine.schedule.sequence import SequenceBatcher
from despina.engine.schedule.slots import Slots
from despina.schema.inference import InferenceRequest

from tests.simulation.books import counted_by

if TYPE_CHECKING:
    from tests.simulation.simulation import History

FORESEEN = ("failed to load '%s'", "failed to load '%s' version %d: %s", "instance %s raised")
"""Messages about what models do. What else is logged with a traceback is a bug of ours."""
NOTED = {
    "instance %s serves again": "instances: restarted",
    "instance %s is down, %s: %s": "instances: died",
    "instance %s: its executor died: %s": "instances: executors that died",
    "instance %s did not return within %g s: its thread is abandoned": "instances: threads abandoned",
}
"""Message -> what has happened."""


class Log(logging.Handler):
    """Reads the engine's log."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.INFO)
        self.history = history

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg)
        noted = NOTED.get(template)
        if noted is not None:
            self.history.books.mix[noted] += 1
        if noted == "instances: died" and record.args and "stays down" in str(record.args[1]):
            self.history.books.mix["instances: stay down"] += 1
        if record.exc_info and record.exc_info[0] is not None and not foreseen(template, record.exc_info[1]):
            error = AssertionError(f"logged: {record.getMessage()}")
            error.__cause__ = record.exc_info[1]
            self.history.books.violations.append(error)


def foreseen(template: str, error: BaseException | None) -> bool:
    """Whether a traceback in the log is of what a history's models do."""
    return template in FORESEEN or (template == "model '%s' version %d stopped" and error is not None)


@contextmanager
def noted(history: History) -> Iterator[None]:
    """For the length of a history."""
    books, threads = history.books, history.threads
    begin, serials = Job.__init__, itertools.count()
    ask, ask_stream = EnsembleVersion.submit, EnsembleVersion.submit_stream
    submit, submit_stream, cancel = ModelVersion.submit, ModelVersion.submit_stream, Job.cancel
    take, taken, give_job_back = DynamicBatcher.take, DynamicBatcher._taken, DynamicBatcher.give_back
    take_of_sequences, silence = SequenceBatcher.take, Slots.silence
    change, count = Instances.change, Warmup._count

    want, give_back = SharedResources.want, SharedResources.give_back

    def noted_submit(
        self: ModelVersion, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0
    ) -> Job:
        def told(job: Job) -> None:
            with books.asserting():
                books.tell(books.accounts.get(job) or books.accept(job, self), job)
            on_done(job)

        history.versions[self.scheduler] = self
        with history.placing("inline at once"):
            job = submit(self, request, told, deadline)
        if job not in books.accounts:
            books.accept(job, self)
        return job

    def noted_submit_stream(
        self: ModelVersion,
        request: InferenceRequest,
        on_answer: Callable[[StreamJob, Answer], None],
        deadline: float = 0.0,
    ) -> StreamJob:
        def told(job: StreamJob, answer: Answer) -> None:
            with books.asserting():
                books.hear(job, answer)
            on_answer(job, answer)

        history.versions[self.scheduler] = self
        job = submit_stream(self, request, told, deadline)
        books.accept(job, self)
        return job

    def noted_begin(self: Job, *args: Any) -> None:
        begin(self, *args)
        self.serial = next(serials)  # type: ignore[attr-defined]  # see books.py

    def noted_ask(
        self: EnsembleVersion, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0
    ) -> Job:
        def told(job: Job) -> None:
            with books.asserting():
                books.tell(books.accounts.get(job) or books.accept(job, self), job)
            books.mix["ensembles: " + ("answered" if job.fault is None else "faults")] += 1
            on_done(job)

        job = ask(self, request, told, deadline)
        if job not in books.accounts:
            books.accept(job, self)
        return job

    def noted_ask_stream(
        self: EnsembleVersion,
        request: InferenceRequest,
        on_answer: Callable[[StreamJob, Answer], None],
        deadline: float = 0.0,
    ) -> StreamJob:
        def told(job: StreamJob, answer: Answer) -> None:
            with books.asserting():
                if job not in books.accounts:
                    books.accept(job, self)
                books.hear(job, answer)
            books.mix["ensembles: " + ("answers" if answer.response is not None else "ends of streams")] += 1
            on_answer(job, answer)

        job = ask_stream(self, request, told, deadline)
        if job not in books.accounts:
            books.accept(job, self)
        return job

    def noted_cancel(self: Job) -> None:
        books.leave(self)
        cancel(self)

    def noted_take(self: DynamicBatcher, instance: Any, cost_s: float) -> Any:
        threads.interrupt()
        result = take(self, instance, cost_s)
        threads.interrupt()
        return result

    def noted_take_of_sequences(self: SequenceBatcher, instance: Any, cost_s: float) -> Any:
        threads.interrupt()
        result = take_of_sequences(self, instance, cost_s)
        batch = result[0]
        if batch is not None:
            with books.asserting():
                books.take_sequences(batch, history.versions[self])
        threads.interrupt()
        return result

    def noted_silence(self: Slots, now: float) -> None:
        before = len(self.active)
        silence(self, now)
        books.mix["sequences: silent"] += before - len(self.active)

    def noted_taken(self: DynamicBatcher, *args: Any) -> Batch:
        turns = "turns of callers" if self.order.caller and self.live else ""
        newest = "newest first" if self.levels.newest_first else ""
        books.mix[f"orders: {', '.join(filter(None, (turns, newest))) or 'arrival'}"] += 1
        batch = taken(self, *args)
        with books.asserting():
            books.take(batch, history.versions[self])
        return batch

    def noted_give_job_back(self: DynamicBatcher, jobs: list[Job]) -> None:
        give_job_back(self, jobs)
        with books.asserting():
            books.give_back(jobs, history.versions[self])

    def noted_count(self: Warmup, ledger: Ledger, batch: Batch) -> None:
        before = counted_by(ledger.statistics)
        count(self, ledger, batch)
        books.warmed[ledger] += counted_by(ledger.statistics) - before

    def noted_want(self: SharedResources, seat: Seat) -> int:
        turn = want(self, seat)
        books.mix["turns: at once" if turn else "turns: waited for"] += 1
        return turn

    def noted_give_back(self: SharedResources, seat: Seat, turn: int = 0) -> None:
        if turn and not seat.took:
            books.mix["turns: for nothing"] += 1
        give_back(self, seat, turn)

    async def noted_change(self: Instances, contexts: Sequence[InstanceContext]) -> None:
        await change(self, contexts)
        books.mix["instances: changed without a reload"] += 1

    async def slow(function: Callable[..., Any], *args: Any, limiter: Any = None, **_: Any) -> Any:
        """In the place of a worker thread: on the trio thread, after a while."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            if limiter is not None:
                await limiter.acquire()
            try:
                await trio.sleep(history.chance.choice([0, 0.001, 0.01]))
                return function(*args)
            finally:
                if limiter is not None:
                    limiter.release()

    log = logging.getLogger("despina")
    handler = Log(history)
    level, propagate, state = log.level, log.propagate, random.getstate()
    with ExitStack() as patches:
        for target, name, replacement in (
            (ModelVersion, "submit", noted_submit),
            (ModelVersion, "submit_stream", noted_submit_stream),
            (EnsembleVersion, "submit", noted_ask),
            (EnsembleVersion, "submit_stream", noted_ask_stream),
            (Job, "__init__", noted_begin),
            (Job, "cancel", noted_cancel),
            (DynamicBatcher, "take", noted_take),
            (DynamicBatcher, "_taken", noted_taken),
            (DynamicBatcher, "give_back", noted_give_job_back),
            (SequenceBatcher, "take", noted_take_of_sequences),
            (Slots, "silence", noted_silence),
            (Instances, "change", noted_change),
            (Warmup, "_count", noted_count),
            (SharedResources, "want", noted_want),
            (SharedResources, "give_back", noted_give_back),
            (trio.to_thread, "run_sync", slow),
            (time, "monotonic_ns", threads.monotonic_ns),
            (time, "thread_time_ns", threads.thread_time_ns),
            (standing, "INTERVAL_S", 0.01),  # histories are short
            (stream_run, "SILENT_S_MAX", 0.3),
            (standing, "INTERVAL_COSTS", 2),
            (trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        ):
            patches.enter_context(patch.object(target, name, replacement))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        random.seed(history.seed)
        trio._core._run._r.seed(history.seed)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate
            random.setstate(state)
