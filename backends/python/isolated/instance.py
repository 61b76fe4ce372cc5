"""An instance of a Python model in a process of its own: what its task executor awaits.

execute_async ──batch──▶ process ──executed──▶ respond, fail
                                 ──send──────▶ one task for each stream, which waits for its caller's room
                                 ──ask───────▶ answered at once, or by a task
the process ends, or breaks the rules: ExecutorDied, for the batch in flight and for the instance
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ....engine.port.binding import bound
from ....schema.fault import ExecutorDied, Fault, ShuttingDown
from .asked import Asked
from .frames import fault_of
from .link import ProcessLink, emit
from .process import ModelProcess
from .pump import Pump

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....engine.port.host_policy import HostPolicy
    from ....engine.port.nested import NestedCaller
    from ....engine.port.work import BackendJob, BackendStream, Batch, LateAnswer
    from ....schema.inference import InferenceRequest
    from ....schema.tensor import Tensor
    from .frames import Message
    from .setup import Setup

log = logging.getLogger("despina.backends.python")


class IsolatedInstance:
    """See port/backend.py: AsyncInstance. Everything is for the trio thread."""

    def __init__(
        self,
        setup: Setup,
        start_s_max: float,
        execution_s_max: float,
        nested: NestedCaller | None = None,
        *,
        policy: HostPolicy,
    ) -> None:
        """`execution_s_max` is how long one batch may take, 0 for ever; `nested` is what the model may ask."""
        self.name = setup.instance_name
        self._setup = setup
        self._policy = policy
        self._decoupled = setup.decoupled
        self._start_s_max = start_s_max
        self._execution_s_max = execution_s_max
        self._process_: ModelProcess | None = None
        self._link_: ProcessLink | None = None
        self._nursery: trio.Nursery | None = None
        self._jobs: dict[int, BackendJob] = {}
        """What is with the process, by number."""
        self._last = 0
        self._executed: Message | None = None
        self._answered = trio.Event()
        self._is_executing = False
        self._is_closing = False
        self._died: ExecutorDied | None = None
        self._pumps: dict[int, Pump] = {}
        self._later: dict[int, LateAnswer] = {}
        """What is answered after its batch, by number."""
        self._early: dict[int, Message] = {}
        """Such answers that came before the news that they would."""
        self._outbox: deque[tuple[str, tuple[Any, ...], Sequence[Tensor]]] = deque()
        self._has_post = trio.Event()
        self._asked = Asked(self.name, setup.name, nested, self._jobs, self.post)

    async def open(self, nursery: trio.Nursery) -> None:
        """Starts the process and waits until its model is initialized.

        Raises what initializing raised, ExecutorDied where the process ended meanwhile.
        """
        self._nursery = nursery
        with bound(self._policy):
            self._process_ = process = ModelProcess()
        self._link_ = ProcessLink(self.name, process)
        with trio.move_on_after(self._start_s_max) as patience:
            await self._link.expect("hello")
        if patience.cancelled_caught:
            raise ExecutorDied(f"the process of '{self.name}' did not start within {self._start_s_max:g} s")
        await self._link.say("open", (attrs.asdict(self._setup),))
        await self._link.expect("opened")
        nursery.start_soon(self._read)
        nursery.start_soon(self._write)
        nursery.start_soon(self._watch)

    async def execute_async(self, batch: Batch) -> None:
        """See `AsyncInstance`. Cancelled, the process is not to be used any more."""
        jobs = batch.jobs
        self._check_alive()
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
        self._answered = trio.Event()
        self._is_executing = True
        try:
            await self._send(described, tensors)
            del tensors
            with trio.move_on_after(self._execution_s_max or float("inf")) as patience:
                await self._answered.wait()
            if patience.cancelled_caught:
                self._process.kill()
                raise ExecutorDied(
                    f"Stub process '{self.name}' is not healthy: it was ended, for one execution took longer than "
                    f"{self._execution_s_max:g} s"
                )
            if self._died is not None:
                raise self._died.copy()
            self._take_answers(batch)
        finally:
            self._is_executing = False
            self._executed = None
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
            raise ExecutorDied(f"Stub process '{self.name}' is not healthy: it {how}") from error

    async def aclose(self) -> None:
        """Lets the model finalize, if it still can; then the process is ended, at once when cancelled."""
        process = self._process_
        if process is None:
            return
        try:
            if self._died is None and not self._is_executing:
                self._is_closing = True
                await self._link.say("close")
                await process.ended()
        except OSError:
            log.debug("the process of '%s' had ended", self.name)
        finally:
            for pump in [*self._pumps.values()]:
                pump.cancel()
            self._fail_late(ShuttingDown("the model was unloaded before it had answered"))
            self._asked.close()
            await process.aclose()
            self._link.close()

    # --- What the process says

    async def _read(self) -> None:
        while True:
            try:
                message = await self._link.receive()
                if message is None:
                    return  # its end is noticed by who watches it
                self._heed(message)
            except (Fault, OSError, ValueError, TypeError, KeyError, IndexError) as problem:
                log.exception("the process of '%s' broke the rules", self.name)
                await self._die(f"it was ended, for it broke the rules: {problem}")
                return

    async def _watch(self) -> None:
        await self._die(f"it {await self._process.ended()}")

    async def _die(self, how: str) -> None:
        """Who executes is told; else whoever supervises the instance."""
        if self._died is not None or self._is_closing:
            return
        self._process.kill()
        self._died = ExecutorDied(f"Stub process '{self.name}' is not healthy: {how}")
        for job in self._jobs.values():
            if self._decoupled:
                job.close(self._died)  # type: ignore[attr-defined]  # decoupled models get streams
        for pump in self._pumps.values():
            pump.cancel()
        self._fail_late(self._died)
        self._asked.close()
        if self._is_executing:
            self._answered.set()
        else:
            raise self._died

    def _heed(self, message: Message) -> None:
        kind, fields = message.kind, message.fields
        if kind == "executed":
            self._executed = message
            self._answered.set()
        elif kind == "send":
            self._pump(fields[0]).put(fields, message.tensors)
        elif kind == "late":
            self._answer_late(message)
        elif kind == "log":
            emit(fields)
        else:
            self._asked.heed(message, self._nursery_())

    def _take_answers(self, batch: Batch) -> None:
        message = self._executed
        assert message is not None, "it has answered"
        fault, ready_ns, ended_ns, answers = message.fields
        batch.inputs_ready_ns = max(batch.started_ns, ready_ns)
        batch.outputs_started_ns = max(batch.inputs_ready_ns, min(ended_ns, time.monotonic_ns()))
        at = 0
        for number, again, is_deferred, has_answer, failed, parameters, count in answers:
            job = self._jobs.get(number)
            if job is None:
                continue  # a stream that is over
            if again:
                job.reschedule()
                self._rest(number)
            if is_deferred:
                self._defer(number, job)
            elif failed is not None:
                job.fail(fault_of(failed))
            elif has_answer:
                job.respond(message.tensors[at : at + count], parameters)
            at += count
        if fault is not None:
            raise fault_of(fault)

    # --- Answers after `execute` has returned

    def _defer(self, number: int, job: BackendJob) -> None:
        self._later[number] = job.defer()
        early = self._early.pop(number, None)
        if early is not None:
            self._answer_late(early)

    def _answer_late(self, message: Message) -> None:
        number, failed, parameters = message.fields
        later = self._later.pop(number, None)
        if later is None:  # sent by another thread before `execute` had returned
            self._early[number] = message
            return
        self._jobs.pop(number, None)
        if failed is None:
            later.respond(message.tensors, parameters)
        else:
            later.fail(fault_of(failed))

    def _fail_late(self, fault: Fault) -> None:
        """They do not come any more."""
        while self._later:
            self._later.popitem()[1].fail(fault)

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


def request_fields(request: InferenceRequest, job: BackendJob) -> tuple[Any, ...]:
    """All but the inputs, as plain values; the version is the one that answers. See child.request_of."""
    trace = request.trace
    return (
        request.model_name,
        int(job.version_text),
        request.id,
        tuple(request.outputs),
        request.parameters,
        request.priority,
        request.timeout_us,
        request.correlation_id,
        request.sequence_start,
        request.sequence_end,
        trace is not None,
        None if trace is None else trace.context(),
    )
