"""Instances: each owns one executor for its whole life and takes batches from its model's mailbox whenever it is free.

             ┌────────────── mailbox: take / idle list ──────────────┐
    ThreadInstance                                             TaskInstance
    a dedicated OS thread opens, executes, closes;             awaits an asynchronous executor
    a movable one may execute inline on the trio thread        (a child process, a scripted fake)

| message                          | to            | effect                                                        |
|----------------------------------|---------------|---------------------------------------------------------------|
| start()                          | idle instance | look at the mailbox; the sender got it from the idle list     |
| model.finish(batch)              | model         | on the trio thread, once per executed batch                   |
| model.give_up(late), wake_at(t)  | model         | on the trio thread: jobs found late; when to look again       |

An instance is in exactly one of three places: on the idle list, owned by whoever took it off that list, or executing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault, ModelFailure, ShuttingDown
from ..port.backend import Batch
from ..request.job import Job, JobState
from ..request.sharing import executed, fetch, fetched_bytes
from ..request.stream import start_streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model.version import ModelVersion
    from ..port.backend import AsyncInstance, BackendInstance, BackendModel, InstanceContext

log = logging.getLogger("despina.engine.execute.instance")

LEARN_EVERY = 8
"""Of the inline executions that skip the queue, which the placement policy is told of."""

FETCH_BYTES_MAX = 1 << 18
"""Of shared memory that are copied on the trio thread itself for executors that are awaited."""

INLINE_SLICE_NS = 5_000_000
"""How long inline executions may hold the trio thread before everybody else gets a turn."""


def as_fault(error: BaseException) -> Fault:
    """A fault for whatever a backend raised. Foreign exceptions become `ExceptionType: text`."""
    if isinstance(error, Fault):
        return error
    text = str(error)
    return ModelFailure(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def answer_all(batch: Batch, error: BaseException | None) -> None:
    """Makes sure that every job of an executed batch has an answer."""
    fault = None if error is None else as_fault(error)
    for job in batch.jobs:
        if job.response is None and job.fault is None:
            job.settle(fault)


class ThreadInstance:
    """An instance on its own thread; a movable one whose model has become cheap is executed inline instead."""

    def __init__(self, model: ModelVersion, backend_model: BackendModel, context: InstanceContext) -> None:
        self.model = model
        self.context = context
        self.movable = False
        self.current: Batch | None = None
        """What its executor works on now, on its own thread."""
        self._backend_model = backend_model
        self._executor: BackendInstance | None = None
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """True: look at the mailbox; False: stop."""
        self._error: Exception | None = None
        self._handover = threading.Lock()
        self._abandoned = False
        self._learn_in = 0

    async def run(self, close_timeout_s: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens the executor, reports started, serves until cancelled, closes. Raises what opening raised.

        Opening and executing cannot be interrupted; cancellation waits for them, at most `close_timeout_s` for the
        latter. A thread that does not come back by then is abandoned, and its callers are told.
        """
        opened, closed = trio.Event(), trio.Event()
        post = trio.lowlevel.current_trio_token().run_sync_soon
        thread = threading.Thread(
            target=self._thread, args=(post, opened.set, closed.set), name=f"despina/{self.context.name}", daemon=True
        )
        thread.start()
        try:
            with trio.CancelScope(shield=True):
                await opened.wait()
            if self._error is None:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._bell.put(False)
            with trio.move_on_after(close_timeout_s, shield=True) as patience:
                await closed.wait()
            if patience.cancelled_caught:
                self._abandon(close_timeout_s)
        assert self._error is not None, "only an instance that did not open gets here"
        raise self._error

    def start(self) -> None:
        """Looks at the mailbox on its own thread. For whoever took this instance off the idle list."""
        self._bell.put(True)

    def execute_inline(self) -> bool:
        """Executes what the mailbox has, here on the trio thread. True when its slice was used up and more may wait."""
        model = self.model
        placement = model.placement
        until = time.monotonic_ns() + INLINE_SLICE_NS
        while True:
            batch, late, wake_at = model.mailbox.take(self, placement.cost_s)
            if late:
                model.give_up(late)
            if batch is None:
                if wake_at:
                    model.wake_at(wake_at)
                return False
            self._run(batch)
            placement.learn((batch.ended_ns - batch.started_ns) * 1e-9)
            model.finish(batch)
            if not placement.inline:
                self.start()
                return False
            if batch.ended_ns > until:
                return True

    def execute_now(self, job: Job) -> None:
        """Executes one job that never queued, here on the trio thread. For whoever claimed this instance."""
        model = self.model
        placement = model.placement
        job.state = JobState.EXECUTING
        batch = Batch([job], job.batch_size, "single")
        self._run(batch)
        self._learn_in -= 1
        if self._learn_in <= 0:
            self._learn_in = LEARN_EVERY
            placement.learn((batch.ended_ns - batch.started_ns) * 1e-9)
        model.finish(batch)
        if not (placement.inline and model.mailbox.rest(self)):
            model.start(self)

    def _abandon(self, waited_s: float) -> None:
        log.error("instance %s did not return within %g s: its thread is abandoned", self.context.name, waited_s)
        with self._handover:
            self._abandoned = True
            batch = self.current
        if batch is not None:
            self.model.disown(batch, ShuttingDown("the model was unloaded while it executed"))

    def _retire(self) -> bool:
        """The executed batch is no longer this instance's. False if it was disowned meanwhile."""
        with self._handover:
            self.current = None
            return not self._abandoned

    def _thread(self, post: Callable[..., object], opened: Callable[[], None], closed: Callable[[], None]) -> None:
        try:
            self._open()
        except BaseException as error:  # to be raised by run(), on the trio thread, where SystemExit would end it all
            self._error = error if isinstance(error, Exception) else as_fault(error)
        try:
            post(opened)
            if self._error is None:
                self._serve(post)
            self._close()
            post(closed)
        except trio.RunFinishedError:
            log.debug("instance %s outlived its event loop", self.context.name)

    def _open(self) -> None:
        executor = self._backend_model.open_instance(self.context)
        self._executor = executor
        self.movable = executor.movable and self.context.kind != "GPU" and not self.model.decoupled
        self.model.warm_up(executor)

    def _serve(self, post: Callable[..., object]) -> None:
        model = self.model
        mailbox, placement, bell = model.mailbox, model.placement, self._bell
        measured = self.movable and not placement.forced
        while True:
            batch, late, wake_at = mailbox.take(self, placement.cost_s)
            if late:
                post(model.give_up, late)
            if batch is None:
                if wake_at:
                    post(model.wake_at, wake_at)
                if not bell.get():
                    return
                continue
            if measured:
                # CPU time, not wall: waiting for the interpreter lock is no cost of the model's.
                began = time.thread_time_ns()
                self._execute(batch)
                placement.learn((time.thread_time_ns() - began) * 1e-9)
            else:
                self._execute(batch)
                placement.learn((batch.ended_ns - batch.started_ns) * 1e-9)
            if not self._retire():
                return
            post(model.finish, batch)
            batch = None
            if measured and placement.inline:
                post(model.start, self)
                if not bell.get():
                    return

    def _execute(self, batch: Batch) -> None:
        """On the instance's own thread, which may never come back: then the batch is disowned."""
        self.current = batch
        if self.model.decoupled:
            batch.started_ns = time.monotonic_ns()
            start_streams(batch)
        self._run(batch)

    def _run(self, batch: Batch) -> None:
        executor = self._executor
        assert executor is not None, "an instance executes only once it is open"
        error: BaseException | None = None
        batch.started_ns = time.monotonic_ns()
        sound = fetch(batch, self.model.admission) if self.model.shares else batch
        try:
            if sound.jobs:
                executor.execute(sound)
        except BaseException as caught:  # a model may raise anything, SystemExit too, and must not end its server
            error = caught
            if not isinstance(caught, Fault):
                log.exception("instance %s raised", self.context.name)
        batch.ended_ns = time.monotonic_ns()
        for job in batch.jobs:
            if job.response is None and job.fault is None:
                job.settle(None if error is None else as_fault(error))
        if sound is not batch:
            executed(batch, sound)

    def _close(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            try:
                executor.close()
            except BaseException:  # finalizers of user models: logged, nobody waits for them
                log.exception("instance %s failed to close", self.context.name)


class TaskInstance:
    """An instance whose executor is awaited: the actor's task is the executor's client."""

    movable = False

    def __init__(self, model: ModelVersion, executor: AsyncInstance, context: InstanceContext) -> None:
        self.model = model
        self.context = context
        self.current: Batch | None = None
        self._executor = executor
        self._rung = False
        self._parked: trio.lowlevel.Task | None = None

    async def run(self, close_timeout_s: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Warms up, reports started, serves until cancelled. A batch in execution is then given up and its callers are
        told. Raises what warming up raised."""
        model = self.model
        try:
            await model.warm_up_async(self._executor)
            task_status.started()
            while True:
                batch, late, wake_at = model.mailbox.take(self, model.placement.cost_s)
                if late:
                    model.give_up(late)
                if batch is None:
                    if wake_at:
                        model.wake_at(wake_at)
                    await self._wait()
                    continue
                await self._execute(batch)
                model.finish(batch)
        finally:
            if self.current is not None:
                model.disown(self.current, ShuttingDown("the model was unloaded while it executed"))
            try:
                self._executor.close()
            except Exception:
                log.exception("instance %s failed to close", self.context.name)

    def start(self) -> None:
        """Looks at the mailbox. For whoever took this instance off the idle list."""
        self._rung = True
        if self._parked is not None:
            task, self._parked = self._parked, None
            trio.lowlevel.reschedule(task)

    async def _execute(self, batch: Batch) -> None:
        self.current = batch
        error: BaseException | None = None
        clock = self.model.clock
        began = clock()
        batch.started_ns = time.monotonic_ns()
        if self.model.decoupled:
            start_streams(batch)
        sound = await self._fetch(batch) if self.model.shares else batch
        try:
            if sound.jobs:
                await self._executor.execute_async(sound)
        except (Exception, SystemExit) as caught:  # a user model may call sys.exit; cancellation must pass
            error = caught
        batch.ended_ns = time.monotonic_ns()
        self.model.placement.learn(clock() - began)
        answer_all(batch, error)
        if sound is not batch:
            executed(batch, sound)
        self.current = None

    async def _fetch(self, batch: Batch) -> Batch:
        """`fetch`, in a thread where it copies much."""
        if fetched_bytes(batch) <= FETCH_BYTES_MAX:
            return fetch(batch, self.model.admission)
        # A cancelled wait goes on until the thread is done: nobody else may have the batch meanwhile.
        return await trio.to_thread.run_sync(fetch, batch, self.model.admission)

    async def _wait(self) -> None:
        if not self._rung:
            self._parked = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._parked = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        self._rung = False


Instance = ThreadInstance | TaskInstance
