"""Nested calls: requests that models make while they execute, and the one place where each of them ends.

    model's thread: call ──posted──▶ begin ─▶ found, admitted, queued like any request ──answers──▶ on_answer, often
                                       │ refused, or it could never end: a fault is its only answer
        cancel, or its parents' callers have left ──▶ the job is cancelled, a fault is its last answer

Rules:
1. Every call gets a final answer exactly once, whatever happens: nobody waits in a model for ever.
2. Calls nest at most DEPTH_MAX deep.
3. A call that waits for an instance which waits for that call, directly or around corners, is refused: waits.py finds
   it. At once where the caller's thread stands still in the call; after a second look where it might go on by itself.

All of it happens on the trio thread; models' threads only post.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from ..schema.fault import Cancelled, Fault, Internal, InvalidArgument, NotFound, NotLoaded, ShuttingDown, Unavailable
from ..schema.inference import LATEST
from .port.concerns import about
from .port.mailbox import mailbox
from .request.job import JobState
from .request.ledger import End
from .request.stream import Answer as EndAnswer
from .request.stream import StreamJob
from .waits import stuck

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from .port.mailbox import Mailbox
    from .port.metrics import Metrics
    from .port.nested import Origin
    from .port.nested_request import NestedRequest
    from .port.served import Answer, Inference, InferenceStream, Served
    from .request.job import Job

log = logging.getLogger("despina.engine.nesting")

DEPTH_MAX = 32
"""Calls within calls. Ours: a model that calls itself without end is told so before it has used up the threads."""

LOOK_S = 1.0
"""Between looks for calls that wait for each other; those found at two looks in a row are refused."""

_T = TypeVar("_T")


class Call:
    """See port/nested.py. Everything but `cancel` and `consumed` is for the trio thread."""

    __slots__ = ("_nesting", "_on_answer", "inference", "is_over", "origin", "request", "served", "suspect", "waits")

    def __init__(
        self,
        nesting: Nesting,
        request: NestedRequest,
        origin: Origin,
        on_answer: Callable[[Answer], None],
        waits: bool,
    ) -> None:
        self.request = request
        self.origin = origin
        self.waits = waits
        self.served: Served | None = None
        self.inference: Inference | None = None
        """Once it was accepted."""
        self.is_over = False
        self.suspect = False
        """Found to wait for itself at the last look."""
        self._nesting = nesting
        self._on_answer = on_answer

    def concern(self) -> dict[str, Any]:
        """`extra=` of a line of the log about it."""
        return about(self.request.model_name, request_id=self.request.id)

    @property
    def parents(self) -> Sequence[Job]:
        return self.origin.jobs  # type: ignore[return-value]  # whoever executes has got them from the engine

    def cancel(self) -> None:
        self._nesting.post(self, self.leave, Cancelled("the request was cancelled by the model that made it"))

    def consumed(self, count: int = 1) -> None:
        self._nesting.post(self, self._consume, count)

    def done(self, inference: Inference) -> None:
        """Its model has answered."""
        self.give(EndAnswer(inference.response, inference.fault, True))

    def answer(self, _: InferenceStream, answer: Answer) -> None:
        """Its decoupled model has answered, not for the last time unless `final`."""
        self.give(answer)

    def look(self) -> None:
        """A caller of its parents' has left."""
        if all(job.is_cancelled() for job in self.origin.jobs):
            self.abandon(Cancelled("the request was cancelled: nobody waits for the answer any more"))

    def abandon(self, fault: Fault) -> None:
        """Ends it: what it was for is over."""
        self.leave(fault)

    def leave(self, fault: Fault) -> None:
        """Ends it unless it is over; its model is told that nobody listens."""
        if self.is_over:
            return
        inference = self.inference
        self.give(EndAnswer(None, fault, True))
        if inference is not None:
            inference.cancel()

    def give(self, answer: Answer) -> None:
        """Passes an answer on."""
        if self.is_over:
            return
        if answer.final:
            self.is_over = True
            if self.request.trace is not None:
                self._nesting.finish(self)
            self.inference = None  # what was answered is the model's alone
            self._nesting.forget(self)
        try:
            self._on_answer(answer)
        except Exception:  # a loop of the model's that is closed, say; the engine goes on
            log.exception("an answer to a call of %s could not be handed over", self.origin.name, extra=self.concern())

    def _consume(self, count: int) -> None:
        if not self.is_over and self.inference is not None:
            self.inference.consumed(count)  # type: ignore[attr-defined]  # asked for of streams only


class _Started:
    """Remembers whether it was called."""

    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self.happened = False
        self._status = status

    def started(self, value: None = None) -> None:
        self.happened = True
        self._status.started(value)


class Nesting:
    """See the module's text. One for each engine."""

    def __init__(
        self,
        find: Callable[[str, int], Served],
        when_loaded: Callable[[str, Callable[[Fault | None], None]], object],
        load: Callable[..., Awaitable[None]],
        unload: Callable[..., Awaitable[None]],
        metrics: Metrics,
        engine: object = None,
    ) -> None:
        """`find` says what serves a model, and raises as Engine.model does; `load` and `unload` are the engine's, which
        attendants get whole."""
        self.calls: dict[Call, None] = {}
        """Under way, oldest first."""
        self.metrics = metrics
        self.stops = False
        """The engine takes nothing more from outside, but what is under way may still ask."""
        self._opening: list[tuple[str, str]] = []
        """Models that are being opened, and the models that they have asked to be loaded."""
        self._find = find
        self._when_loaded = when_loaded
        self._load = load
        self._unload = unload
        self._engine = engine
        self._attendants: trio.Nursery | None = None
        self._home = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._mailbox: Mailbox | None = None
        self._looking: trio.Event | None = None

    # --- For models, from any thread

    def may_wait(self) -> bool:
        return threading.get_ident() != self._home

    def call(
        self,
        request: NestedRequest,
        origin: Origin,
        on_answer: Callable[[Answer], None],
        *,
        decoupled: bool,
        waits: bool,
    ) -> Call:
        call = Call(self, request, origin, on_answer, waits)
        self.post(call, self._begin, call, decoupled)
        return call

    def is_model_ready(self, name: str, version: int = LATEST) -> bool:
        ready: bool = self._wait(trio.from_thread.run, lambda: self._says_ready(name, version))
        return ready

    def load(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        by: str,
        is_opening: bool,
    ) -> None:
        self._wait(trio.from_thread.run, lambda: self._load_for(by, is_opening, name, config, files))

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        self._wait(trio.from_thread.run, lambda: self._unload(name, unload_dependents=unload_dependents))

    def attend(self, attendant: Callable[..., Awaitable[None]]) -> None:
        self._wait(trio.from_thread.run, lambda: self._start(attendant))

    def post(self, call: Call, function: Callable[..., object], *arguments: object) -> None:
        """Runs a function about `call` on the trio thread soon. Without an engine, the call ends here and now."""
        box = self._mailbox
        try:
            if box is None:
                raise trio.RunFinishedError
            box.post(self._guarded, call, function, arguments)
        except trio.RunFinishedError:
            call.give(EndAnswer(None, ShuttingDown("Server exiting"), True))

    def _wait(self, run: Any, call: Callable[[], Any]) -> Any:
        if self._token is None:
            raise ShuttingDown("Server not ready")
        try:
            return run(call, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise ShuttingDown("Server exiting") from None

    # --- For the engine

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The task that looks for calls which wait for each other. Cancelled, it ends all that are under way."""
        self._token = trio.lowlevel.current_trio_token()
        self._mailbox = mailbox()
        self._home = threading.get_ident()
        self._looking = trio.Event()
        try:
            async with trio.open_nursery() as self._attendants:
                task_status.started()
                while True:
                    await self._looking.wait()
                    while self.calls:
                        await trio.sleep(LOOK_S)
                        self._look()
                    self._looking = trio.Event()
        finally:
            self._token = self._mailbox = self._looking = self._attendants = None
            for call in list(self.calls):
                call.leave(ShuttingDown("Server exiting"))

    def forget(self, call: Call) -> None:
        """It is over."""
        self.calls.pop(call, None)
        for job in call.parents:
            children = job.children
            if children is not None:
                children.discard(call)

    def finish(self, call: Call) -> None:
        """Nothing more is noted of it once it is over; of a stream that was executed the model's own books say when."""
        inference = call.inference
        executed = isinstance(inference, StreamJob) and inference.state is JobState.EXECUTING
        if self._token is not None and not (executed and inference.ends is End.STREAMED):  # type: ignore[union-attr]
            self._token.run_sync_soon(call.request.trace.finish)

    # --- Calls

    def _guarded(self, call: Call, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        try:
            function(*arguments)
        except Exception as error:  # it would end the engine, and its model would wait for ever
            log.exception("a call of %s failed", call.origin.name, extra=call.concern())
            call.leave(Internal(f"{type(error).__name__}: {error}"))

    def _begin(self, call: Call, decoupled: bool) -> None:
        if call.is_over:
            return
        try:
            self._submit(call, decoupled)
        except NotLoaded as fault:
            self._begin_when_loaded(call, decoupled, fault.model_name)
            return
        except Fault as fault:
            name = call.request.model_name
            call.leave(Internal(f"Model {name} - Error when running inference: {fault.message}"))
            return
        if call.is_over or not call.origin.jobs:
            return
        if all(job.is_cancelled() for job in call.origin.jobs):
            call.look()
        elif call.waits and call in stuck(self.calls, surely=True):
            self._refuse(call)

    def _begin_when_loaded(self, call: Call, decoupled: bool, name: str) -> None:
        """Its model loads on request: the call waits for that."""

        def again(fault: Fault | None) -> None:
            if fault is None:
                self._guarded(call, self._begin, (call, decoupled))
            else:
                call.leave(Internal(f"Model {name} - Error when running inference: {fault.message}"))

        try:
            self._when_loaded(name, again)
        except Fault as fault:
            again(fault)

    def _submit(self, call: Call, decoupled: bool) -> None:
        """Raises Fault."""
        request = call.request
        name = request.model_name
        try:
            served = self._find(name, request.model_version)
        except NotLoaded:
            raise
        except (NotFound, Unavailable):
            served = None
        if served is None or not (served.is_serving or self.stops):
            raise Internal(f"Failed for execute the inference request. Model '{name}' is not ready.")
        if served.decoupled and not decoupled:
            raise Internal(
                f"Model {name} is using the decoupled. The current BLS request call doesn't support models using the "
                "decoupled transaction policy. Please use 'decoupled=True' argument to the 'exec' or 'async_exec' "
                "calls for decoupled models.'"
            )
        request.depth = 1 + self._depth_of(call)
        if request.depth > DEPTH_MAX:
            raise InvalidArgument(
                f"calls are nested more than {DEPTH_MAX} deep: does '{name}' call itself, maybe through others?"
            )
        if call.origin.trace is not None:
            request.trace = call.origin.trace.child(name)
        call.served = served
        self.calls[call] = None
        for job in call.parents:
            if job.children is None:
                job.children = {call}
            else:
                job.children.add(call)
        try:
            if served.decoupled:
                call.inference = served.submit_stream(request, call.answer)
            else:
                call.inference = served.submit(request, call.done)
        except Fault:
            self.forget(call)
            raise
        if self._looking is not None and self.calls:
            self._looking.set()

    def _depth_of(self, call: Call) -> int:
        """Of whatever makes a call: where nobody knows what it is made for, of the deepest call to the same model."""
        if call.parents:
            return max(job.request.depth for job in call.parents)
        name = call.origin.model_name
        return max((other.request.depth for other in self.calls if other.request.model_name == name), default=0)

    def _look(self) -> None:
        """Refuses the newest of the calls that wait for themselves: for sure, or at the last look, too."""
        found = stuck(self.calls, surely=False)
        lasting = stuck(self.calls, surely=True) or [call for call in found if call.suspect]
        for call in self.calls:
            call.suspect = call in found
        if lasting:
            self._refuse(lasting[-1])

    def _refuse(self, call: Call) -> None:
        name = call.request.model_name
        text = "a call of %s to model '%s' could never end: it is refused"
        log.error(text, call.origin.name, name, extra=call.concern())
        call.leave(
            Unavailable(
                f"the request to model '{name}' would wait for ever: all its instances wait for it, "
                "directly or through other models. More instances, or async_exec after execute, would help"
            )
        )

    async def _load_for(
        self, by: str, is_opening: bool, name: str, config: str | None, files: Mapping[str, bytes] | None
    ) -> None:
        """Loads of one model come one after the other, so one that is opened cannot wait for a load of itself."""
        if by in self._awaited_by(name):
            raise InvalidArgument(f"model '{by}' cannot wait for '{name}' to be loaded, which waits for '{by}'")
        wanted = (by, name)
        if is_opening:
            self._opening.append(wanted)
        try:
            await self._load(name, config=config, files=files)
        finally:
            if is_opening:
                self._opening.remove(wanted)

    def _awaited_by(self, name: str) -> set[str]:
        """The model, and those whose loading it waits for in turn while it is opened."""
        found: set[str] = set()
        more = {name}
        while more:
            found |= more
            more = {wanted for by, wanted in self._opening if by in found} - found
        return found

    async def _start(self, attendant: Callable[..., Awaitable[None]]) -> None:
        if self._attendants is None:
            raise ShuttingDown("Server exiting")
        await self._attendants.start(self._attended, attendant)

    async def _attended(self, attendant: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[None]) -> None:
        """Its faults are not the engine's once it has started."""
        started = _Started(task_status)
        try:
            await attendant(self._engine, task_status=started)
        except Exception:
            if not started.happened:
                raise
            log.exception("what offered the engine to others has ended")

    async def _says_ready(self, name: str, version: int) -> bool:
        try:
            served = self._find(name, version)
        except (NotFound, Unavailable):
            return False
        return bool(served.is_serving and await served.says_ready())
