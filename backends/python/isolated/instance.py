"""An instance of a Python model in a process of its own: what its task executor awaits.

execute_async ──batch──▶ process ──executed──▶ respond, fail
begin, begin_ahead                             the same, without anybody waiting: see line.py
                                 ──send──────▶ one task for each stream, which waits for its caller's room
                                 ──ask───────▶ answered at once, or by a task
the process ends, or breaks the rules: ExecutorDied, for the batch in flight and for the instance
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ....engine.port.binding import bound
from ....engine.port.dispatch import dispatch
from ....schema.fault import ExecutorDied, Fault, ShuttingDown
from .answer_forms import AnswerForms
from .asked import Asked
from .frames import INLINE_BYTES_MAX, fault_fields, fault_of, request_fields
from .late import LateAnswers
from .line import Begun, Line
from .link import ProcessLink, emit
from .process import ModelProcess, Program
from .pump import Pump

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from ....engine.port.host_policy import HostPolicy
    from ....engine.port.nested import NestedCaller
    from ....engine.port.work import BackendJob, BackendStream, Batch
    from ....schema.tensor import Tensor
    from .asked import LibraryHost
    from .frames import Message
    from .limits import Limits
    from .setup import Setup

log = logging.getLogger("despina.backends.python")

HEARD_MAX = 16
"""Messages at a time: what the process has executed meanwhile."""


def _set_states(job: BackendJob, states: Sequence[Tensor]) -> tuple[str, str] | None:
    """What is wrong with them, as plain values."""
    try:
        for tensor in states:
            job.set_state(tensor.name, tensor)
    except Fault as fault:
        return fault_fields(fault)
    return None


class _Gone(Exception):
    """The process has closed its end of the link."""


class IsolatedInstance:
    """See port/backend.py: AsyncInstance. Everything is for the trio thread."""

    def __init__(
        self,
        setup: Setup,
        limits: Limits,
        nested: NestedCaller | None = None,
        *,
        policy: HostPolicy,
        program: Program | None = None,
        host: LibraryHost | None = None,
    ) -> None:
        """`nested` is what the model may ask, `host` what a library has; without a `program` its process is forked."""
        self.name = setup.instance_name
        self._setup = setup
        self._policy = policy
        self._program = program
        self._decoupled = setup.decoupled
        self._limits = limits
        self._process_: ModelProcess | None = None
        self._link_: ProcessLink | None = None
        self._nursery: trio.Nursery | None = None
        self._jobs: dict[int, BackendJob] = {}
        """What is with the process, by number."""
        self._last = 0
        self._executed: Message | None = None
        self._waiting: trio.lowlevel.Task | None = None
        """Who executes, while the process does."""
        self._is_executing = False
        self._line = Line()
        """What is executed without anybody waiting for it, and who is told when it is over."""
        self._is_closing = False
        self._died: ExecutorDied | None = None
        self._pumps: dict[int, Pump] = {}
        self._later = LateAnswers(self._jobs)
        self._forms = AnswerForms()
        self._outbox: deque[tuple[str, tuple[Any, ...], Sequence[Tensor]]] = deque()
        self._has_post = trio.Event()
        self._asked = Asked(self.name, setup.name, nested, self._jobs, self.post, host)
        self.ready: Callable[[], Awaitable[bool]] | None = None
        """Of a model that has a say in whether it is."""
        self._said_ready = trio.Event()
        self._is_ready = False
        self._tidies = False
        """Somebody waits until it is quiet."""

    async def open(self, nursery: trio.Nursery) -> None:
        """Starts the process and waits until its model is initialized.

        Raises what initializing raised, ExecutorDied where the process ended meanwhile.
        """
        self._nursery = nursery
        program = self._program or (Program() if self._policy.binds else None)
        if program is not None:
            with bound(
                self._policy
            ):  # which it inherits only from this thread, and it ends with the thread that starts it
                process = ModelProcess(program)
        else:
            process = await trio.to_thread.run_sync(ModelProcess)
        self._process_ = process
        self._link_ = ProcessLink(self.name, process, self._setup.title, self._setup.name)
        nursery.start_soon(self._write)
        limits = self._limits
        with trio.move_on_after(limits.open_s or float("inf")) as patience:
            await self._open()
        if patience.cancelled_caught:
            raise ExecutorDied(f"the model of '{self.name}' was not initialized within {limits.open_s:g} s")
        nursery.start_soon(self._read)
        nursery.start_soon(self._watch)

    async def _open(self) -> None:
        limits = self._limits
        with trio.move_on_after(limits.start_s or float("inf")) as patience:
            await self._link.expect("hello")
        if patience.cancelled_caught:
            raise ExecutorDied(f"the process of '{self.name}' did not start within {limits.start_s:g} s")
        await self._link.say("open", (attrs.asdict(self._setup),))
        opened = await self._link.expect("opened", self._heed)  # it may ask for metrics, and for other models' loads
        self._line.open(self._link.take_file())
        if opened.fields[0]:
            self.ready = self._ask_ready

    def begin(self, batch: Batch, over: Callable[[Fault | None], None]) -> bool:
        """See `AsyncInstance`."""
        if self._died is not None or self._limits.execution_s:
            return False
        described, tensors, numbers = self._described(batch.jobs)
        return self._say_begun("execute", (described,), tensors, Begun(batch, numbers, over))

    @property
    def ahead_max(self) -> int:
        """See `PipelinedInstance`."""
        if self._decoupled or self._limits.execution_s or self._died is not None:
            return 0  # the time of an execution is that of its own
        return self._line.room

    def begin_ahead(
        self, batch: Batch, over: Callable[[Fault | None], None], unbegun: Callable[[], None], within_s: float
    ) -> bool:
        """See `PipelinedInstance`. What takes shared memory is not taken: it is used anew by the next batch."""
        size = sum(len(tensor.memory()) for job in batch.jobs for tensor in job.request.inputs.values())
        if size > INLINE_BYTES_MAX or within_s <= 0 or not self._line.room:
            return False
        described, tensors, numbers = self._described(batch.jobs)
        latest_ns = 0 if within_s == math.inf else time.monotonic_ns() + int(within_s * 1e9)
        self._line.offer()
        begun = Begun(batch, numbers, over, unbegun)
        is_begun = False
        try:
            is_begun = self._say_begun("ahead", (described, latest_ns), tensors, begun)
        finally:
            if not is_begun:
                self._line.revoke()
        return is_begun

    def take_back(self) -> int:
        """See `PipelinedInstance`."""
        taken = self._line.take_back()
        for begun in taken:
            self._let_go(begun.numbers)
        return len(taken)

    def _say_begun(self, kind: str, fields: tuple[Any, ...], tensors: Sequence[Tensor], begun: Begun) -> bool:
        said = self._link.say_now(kind, fields, tensors)
        if said is False:
            self._let_go(begun.numbers)
            return False
        self._line.begun.append(begun)
        if said is None:
            self._has_post.set()
        return True

    def _end_begun(self, message: Message) -> None:
        """The process has executed what comes first of what was begun."""
        begun = self._line.begun.popleft()
        fault: Fault | None = None
        try:
            self._take_answers(begun.batch, message, is_ahead=begun.unbegun is not None)
        except Fault as raised:
            fault = raised
        self._let_go(begun.numbers)
        begun.over(fault)

    def _end_unbegun(self) -> None:
        """Its turn has come too late."""
        begun = self._line.begun.popleft()
        assert begun.unbegun is not None, "only what was handed over before its turn is refused"
        self._let_go(begun.numbers)
        begun.unbegun()

    def _lose_begun(self, died: ExecutorDied) -> None:
        """The process is gone: what it has executed it has said."""
        begun = self._line.begun
        begun[0].over(died.copy())  # takes back what was not begun
        while begun:
            self._let_go(begun.popleft().numbers)

    async def execute_async(self, batch: Batch) -> None:
        """See `AsyncInstance`. Cancelled, the process is not to be used any more."""
        self._check_alive()
        described, tensors, numbers = self._described(batch.jobs)
        self._is_executing = True
        try:
            await self._send(described, tensors)
            del tensors
            if not self._limits.execution_s:
                await self._until_answered()
            elif not await self._answered_within(self._limits.execution_s):
                self._process.kill()
                raise ExecutorDied(
                    f"{self._setup.title} is not healthy: it was ended, for one execution took longer than "
                    f"{self._limits.execution_s:g} s"
                )
            if self._died is not None:
                raise self._died.copy()
            assert self._executed is not None, "it has answered"
            self._take_answers(batch, self._executed)
        finally:
            self._is_executing = False
            self._executed = None
            self._let_go(numbers)

    def _described(self, jobs: Sequence[BackendJob]) -> tuple[list[tuple[Any, ...]], list[Tensor], list[int]]:
        """What the process is told of them, their inputs, and the numbers that they have there."""
        described = []
        tensors: list[Tensor] = []
        numbers = []
        for job in jobs:
            self._last = number = self._last + 1
            self._jobs[number] = job
            numbers.append(number)
            request = job.request
            inputs = request.inputs.values()
            described.append((number, job.batch_size, job.received_ns, len(inputs), request_fields(request, job)))
            tensors += inputs
        return described, tensors, numbers

    def _let_go(self, numbers: list[int]) -> None:
        """Their batch is over."""
        if not self._decoupled:
            for number in numbers:
                if number not in self._later:
                    self._jobs.pop(number, None)

    async def _send(self, described: list[tuple[Any, ...]], tensors: list[Tensor]) -> None:
        try:
            await self._link.say("execute", (described,), tensors)
        except OSError as error:  # it is gone, and who watches it has not seen it yet; or the model has closed the link
            self._process.kill()
            how = await self._process.ended()
            raise ExecutorDied(f"{self._setup.title} is not healthy: it {how}") from error

    async def _until_answered(self) -> None:
        """Returns when the process has executed, or is gone."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting = None
            return trio.lowlevel.Abort.SUCCEEDED

        if self._executed is None and self._died is None:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def _answered_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds) as patience:
            await self._until_answered()
        return not patience.cancelled_caught

    def _answered(self) -> None:
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def aclose(self) -> None:
        """Lets the model finalize, if it still can; then the process is ended, at once when cancelled."""
        process = self._process_
        if process is None:
            return
        try:
            if self._died is None and not self._is_executing and not self._line.begun:
                self._is_closing = True
                await self._link.say("close")
                await process.ended()
        except OSError:
            log.debug("the process of '%s' had ended", self.name)
        finally:
            for pump in [*self._pumps.values()]:
                pump.cancel()
            self._later.fail(ShuttingDown("the model was unloaded before it had answered"))
            self._asked.close()
            self._said_ready.set()
            await process.aclose()
            self._link.close()
            self._line.close()

    # --- What the process says

    async def _read(self) -> None:
        said_on = self._process.sock.fileno()
        if said_on < 0:
            return  # it was closed before this task had its first turn
        own = os.dup(said_on)  # which is open as long as anybody looks at it
        try:
            await dispatch(own, self._hear)
        except _Gone:
            return  # its end is noticed by who watches it
        except (Fault, OSError, ValueError, TypeError, KeyError, IndexError) as problem:
            log.exception("the process of '%s' broke the rules", self.name)
            await self._die(f"it was ended, for it broke the rules: {problem}")
        finally:
            os.close(own)

    def _hear(self) -> None:
        """It has said something, or is gone."""
        link = self._link
        for _ in range(HEARD_MAX):
            try:
                message = link.receive_nowait()
            except BlockingIOError:
                return
            if message is None:
                raise _Gone
            self._heed(message)
            if len(self._line.begun) < 2:
                break  # seldom is there more
        if link.holds_much and not self._tidies:
            self._tidies = True
            self._nursery_().start_soon(self._tidy)

    async def _tidy(self) -> None:
        await self._link.tidy()
        self._tidies = False

    async def _watch(self) -> None:
        how = await self._process.ended()
        self._hear_rest()
        await self._die(f"it {how}")

    def _hear_rest(self) -> None:
        """What the process, which is gone, has executed before."""
        with suppress(Fault, OSError, ValueError, TypeError, KeyError, IndexError):
            while self._line.begun and (message := self._link.receive_nowait()) is not None:
                if message.kind not in ("ask", "call"):  # nobody is there to be answered
                    self._heed(message)

    async def _die(self, how: str) -> None:
        """Who executes is told; else whoever supervises the instance."""
        if self._died is not None or self._is_closing:
            return
        self._process.kill()
        self._died = ExecutorDied(f"{self._setup.title} is not healthy: {how}")
        for job in self._jobs.values():
            if self._decoupled:
                job.close(self._died)  # type: ignore[attr-defined]  # decoupled models get streams
        for pump in self._pumps.values():
            pump.cancel()
        self._later.fail(self._died)
        self._asked.close()
        self._said_ready.set()
        if self._line.begun:
            self._lose_begun(self._died)
        elif self._is_executing:
            self._answered()
        else:
            raise self._died

    def _heed(self, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "executed":
            if self._line.begun:
                self._end_begun(message)
            else:
                self._executed = message
                self._answered()
        elif kind == "send":
            self._pump(fields[0]).put(fields, message.tensors)
        elif kind == "late":
            self._later.answer(message)
        elif kind == "withdrawn":
            self._line.withdrawn()
        elif kind == "too late":
            self._end_unbegun()
        elif kind == "log":
            emit(fields, self._setup.name, self._worked_on())
        elif kind == "ready":
            self._is_ready = bool(fields[0])
            self._said_ready.set()
        elif kind == "tidied":
            pass  # what it lets go of has been heeded with the message
        else:
            self._asked.heed(message, self._nursery_())

    def _worked_on(self) -> Collection[BackendJob]:
        """The jobs that are with the process, but for those whose turn has not come."""
        waiting = {number for begun in islice(self._line.begun, 1, None) for number in begun.numbers}
        return [job for number, job in self._jobs.items() if number not in waiting]

    def _take_answers(self, batch: Batch, message: Message, *, is_ahead: bool = False) -> None:
        fault, begun_ns, ready_ns, ended_ns, answers = message.fields
        self._line.learn((ended_ns - begun_ns) * 1e-9)
        if is_ahead:
            batch.started_ns = begun_ns
        batch.inputs_ready_ns = max(batch.started_ns, ready_ns)
        batch.outputs_started_ns = max(batch.inputs_ready_ns, min(ended_ns, time.monotonic_ns()))
        at = 0
        for number, count, parameters, beyond in answers:
            job = self._jobs.get(number)
            if job is None:
                continue  # a stream that is over
            if beyond is None:
                self._forms.answer(job, message, at, at + count, parameters)
                at += count
                continue
            again, is_deferred, has_answer, failed, states = beyond
            if states:
                failed = _set_states(job, message.some_tensors(at, at + states)) or failed
                at += states
            if again:
                job.reschedule()
                self._rest(number)
            if is_deferred:
                self._later.defer(number, job)
            elif failed is not None:
                job.fail(fault_of(failed))
            elif has_answer:
                self._forms.answer(job, message, at, at + count, parameters)
            at += count
        if fault is None:
            return
        if not self._decoupled:
            raise fault_of(fault)
        for number, *_ in answers:
            if number in self._jobs:  # after what it was answered before, which may still be on its way to its caller
                self._pump(number).put((number, fault, None, True, False), [])

    # --- Streams

    def _pump(self, number: int) -> Pump:
        pump = self._pumps.get(number)
        if pump is None:
            job: BackendStream = self._jobs[number]  # type: ignore[assignment]  # decoupled models get no others
            self._pumps[number] = pump = Pump(self, number, job)
            self._nursery_().start_soon(pump.run)
        return pump

    def _rest(self, number: int) -> None:
        """It is executed again, under another number: nothing more comes for this one."""
        pump = self._pumps.get(number)
        if pump is None:
            self._jobs.pop(number, None)
        else:
            pump.put(None, [])

    def forget(self, number: int) -> None:
        """Its stream is over."""
        self._pumps.pop(number, None)
        self._jobs.pop(number, None)

    # --- Inside

    async def _ask_ready(self) -> bool:
        """What the model says; False when its process ends meanwhile. Asked one at a time."""
        self._is_ready = False
        self._said_ready = trio.Event()
        self.post("ready?", ())
        await self._said_ready.wait()
        return self._is_ready

    def post(self, kind: str, fields: tuple[Any, ...], tensors: Sequence[Tensor] = ()) -> None:
        """Says it later, in order. How much can wait here is bounded by what the process may ask at a time."""
        self._outbox.append((kind, fields, tensors))
        self._has_post.set()

    async def _write(self) -> None:
        """Says what was posted. Who watches the process notices when it is gone."""
        try:
            while True:
                while not self._outbox:
                    self._has_post = trio.Event()
                    await self._has_post.wait()
                    await self._link.flush()
                await self._link.say(*self._outbox.popleft())
        except OSError:
            log.debug("the process of '%s' is gone", self.name)

    def _check_alive(self) -> None:
        if self._died is not None:
            raise self._died.copy()

    @property
    def _process(self) -> ModelProcess:
        assert self._process_ is not None, "it was opened"
        return self._process_

    @property
    def _link(self) -> ProcessLink:
        assert self._link_ is not None, "it was opened"
        return self._link_

    def _nursery_(self) -> trio.Nursery:
        assert self._nursery is not None, "it is open"
        return self._nursery
