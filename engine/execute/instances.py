"""The instances of one model version: opened together, supervised one by one.

    Instances.run
     └─ Member, for each instance     opens it, serves; when its executor has died: waits, opens it anew

| state    | means                                                                     |
|----------|---------------------------------------------------------------------------|
| opening  | for the first time; if that fails, so does the model's load               |
| serving  | idle or executing                                                         |
| down     | its executor has died; it is opened anew after a while (supervision.py)   |
| stopped  | it stays down, or was retired                                             |
"""

from __future__ import annotations

import logging
import random
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

import trio

from ...schema.fault import Fault, ModelFailure
from ..observe.status import ActorStatus
from ..port.binding import bind
from ..port.concerns import of_model
from ..port.foreign import as_fault
from ..port.groups import first
from ..port.settings import Restart
from .supervision import wait_after
from .task import TaskInstance, close
from .thread import ThreadInstance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..port.backend import AsyncInstance, BackendInstance, BackendModel, InstanceContext
    from ..port.settings import Strategy
    from ..request.job import Job
    from .feed import Feed
    from .placement import Placement
    from .readiness import Readiness
    from .warmup import Warmup

log = logging.getLogger("despina.engine.execute.instances")


class MemberState(Enum):
    OPENING = "opening"
    SERVING = "serving"
    DOWN = "down"
    STOPPED = "stopped"


class Member:
    """One instance under supervision."""

    def __init__(self, instance: ThreadInstance | TaskInstance) -> None:
        self.instance = instance
        self.state = MemberState.OPENING
        self.deaths = 0
        self.reason = ""
        """Of the last death."""
        self.retired = trio.Event()
        """It is not to be opened anew."""
        self.ended = trio.Event()

    @property
    def name(self) -> str:
        return self.instance.context.name

    def status(self) -> ActorStatus:
        """What it does now."""
        batch = self.instance.current
        doing = self.state.value if batch is None else f"executes {len(batch.jobs)} requests, {batch.size} rows"
        return ActorStatus(name=f"instance {self.name}", doing=doing, depth=int(batch is not None), bound=1)


class Instances:
    """Of one model version. Everything is for the trio thread."""

    def __init__(
        self,
        backend_model: BackendModel,
        feed: Feed,
        placement: Placement,
        warmup: Warmup,
        *,
        decoupled: bool,
        close_timeout_s: float,
        strategy: Strategy,
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is told whenever an instance has come or gone."""
        self._backend_model = backend_model
        self._feed = feed
        self._placement = placement
        self._warmup = warmup
        self._decoupled = decoupled
        self._close_timeout_s = close_timeout_s
        self._strategy = strategy
        self._on_change = on_change
        self._members: list[Member] = []
        self._nursery: trio.Nursery | None = None

    @property
    def serving(self) -> int:
        """How many serve now."""
        return sum(member.state is MemberState.SERVING for member in self._members)

    @property
    def down(self) -> int:
        """How many should serve and do not."""
        return len(self._members) - self.serving

    @property
    def all_movable(self) -> bool:
        """Whether every one of them may execute on the trio thread."""
        return all(member.instance.movable for member in self._members)

    @property
    def all_bound(self) -> bool:
        """Whether every one of them executes on a thread of its own and nowhere else."""
        return all(member.instance.has_thread and not member.instance.movable for member in self._members)

    async def say_ready(self) -> bool:
        """Whether none of those that serve says that it is not ready: each may get the next request."""
        serving = [member.instance for member in self._members if member.state is MemberState.SERVING]
        asked = [instance.readiness for instance in serving if instance.readiness is not None]
        if not asked:
            return True
        said: list[bool] = []

        async def ask(readiness: Readiness) -> None:
            assert self._nursery is not None, "running"
            said.append(await readiness.ask(self._nursery))

        async with trio.open_nursery() as nursery:
            for readiness in asked:
                nursery.start_soon(ask, readiness)
        return all(said)

    def problems(self) -> list[str]:
        """What is wrong with those that do not serve."""
        return [
            f"instance {member.name} is {member.state.value}: {member.reason}"
            for member in self._members
            if member.reason and member.state is not MemberState.SERVING
        ]

    def executing(self) -> list[Sequence[Job]]:
        """What each of them executes now on its own thread."""
        batches = [member.instance.current for member in self._members]
        return [batch.jobs for batch in batches if batch is not None]

    def busy_with(self, job: Job) -> list[Sequence[Job]]:
        """What the instance that has it executes now on its own thread: that job, or those whose end it waits for."""
        instances = [member.instance for member in self._members]
        return [
            instance.current.jobs
            for instance in instances
            if instance.current is not None and (job in instance.current.jobs or job.ahead is instance)
        ]

    def blockers(self, instance: object = None) -> Sequence[Sequence[Job]]:
        """What those that serve, or that one of them, are busy with; or whoever they wait for if they wait for their
        turn. Empty if one of them is free."""
        found: list[Sequence[Job]] = []
        for member in self._members:
            if member.state is not MemberState.SERVING or instance not in (None, member.instance):
                continue
            batch = member.instance.current
            if batch is not None:
                found.append(batch.jobs)
                continue
            holding = [holder.current for holder in self._feed.holders(member.instance)]
            if not holding:
                return ()
            for other in holding:
                if other is None:
                    return ()
                found.append(other.jobs)  # type: ignore[arg-type]  # the engine's batches have the engine's jobs
        return found

    def status(self) -> list[ActorStatus]:
        """What each of them does now."""
        return [member.status() for member in self._members]

    async def run(
        self, contexts: Sequence[InstanceContext], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Opens every instance, reports started, serves until cancelled, closes.

        Raises (in a group) what opening one raised, and ModelFailure when none is left.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            async with trio.open_nursery() as opening:
                for context in contexts:
                    opening.start_soon(self._open, context)
            task_status.started()
            await trio.sleep_forever()

    async def change(self, contexts: Sequence[InstanceContext]) -> None:
        """Opens those of `contexts` that there are not yet or no longer, then retires those that are not among them.

        Retired ones finish what they execute. Raises Fault if one does not open; then nothing has changed.
        """
        stopped = [member for member in self._members if member.state is MemberState.STOPPED]
        there = {member.instance.context: member for member in self._members if member not in stopped}
        new = [context for context in contexts if context not in there]
        opened: list[Member] = []
        try:
            async with trio.open_nursery() as opening:
                for context in new:
                    opening.start_soon(self._open, context, opened)
        except BaseException as error:
            with trio.CancelScope(shield=True):  # bounded: they have just opened, and close within the timeout
                await self._retire(opened)
            if isinstance(error, Exception):
                raise as_fault(first(error)) from error
            raise
        self._members = [member for member in self._members if member not in stopped]
        for member in self._members:
            member.instance.take_back()  # for the new ones
        while self._placement.look():
            pass
        await self._retire([member for context, member in there.items() if context not in contexts])

    def close(self) -> None:
        """Lets go of the framework's model: versions are remembered, maybe for long. After `run` has ended."""
        self._members = []
        del self._backend_model, self._warmup

    # --- One instance

    async def _open(self, context: InstanceContext, opened: list[Member] | None = None) -> None:
        assert self._nursery is not None, "running"
        member = Member(self._instance(context))
        await self._nursery.start(self._supervise, member)
        if opened is not None:
            opened.append(member)

    async def _retire(self, members: Sequence[Member]) -> None:
        for member in members:
            self._feed.scheduler.withdraw(member.instance)
            member.instance.retire()
            member.retired.set()
        for member in members:
            await member.ended.wait()

    async def _supervise(self, member: Member, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs one life of the instance after the other. Raises what the first opening raised, and InvalidArgument for
        one that could never execute."""
        self._feed.enter(member.instance, member.instance.context, self._placement.start)
        self._members.append(member)
        limit = self._strategy.limit if isinstance(self._strategy, Restart) else 0
        deaths: deque[float] = deque(maxlen=limit + 1)
        started = _Serving(self, member, task_status)
        try:
            while True:
                try:
                    await member.instance.run(self._close_timeout_s, started)
                    self._withdraw(member)
                    break  # retired
                except Exception as error:
                    if not started.happened:
                        raise
                    fault = as_fault(first(error))
                now = trio.current_time()
                deaths.append(now)
                wait_s = wait_after(self._strategy, deaths, now, random.random())
                self._down(member, fault, wait_s)
                if wait_s is None:
                    break
                with trio.move_on_after(wait_s):
                    await member.retired.wait()
                if member.retired.is_set():
                    break
        finally:
            if member.state is not MemberState.STOPPED:
                member.state = MemberState.STOPPED
                self._members.remove(member)  # those that have died for good stay: they are what is wrong
            self._feed.leave(member.instance)
            member.ended.set()
        if all(other.state is MemberState.STOPPED for other in self._members):
            reasons = dict.fromkeys(other.reason for other in self._members)
            raise ModelFailure(f"no instance is left: {'; '.join(reasons)}")

    def _withdraw(self, member: Member) -> None:
        """Its life is over: nobody starts it any more. It may have gone idle just before, and been started in vain."""
        self._feed.scheduler.withdraw(member.instance)
        self._placement.look()

    def _dying(self, instance: TaskInstance, fault: Fault) -> None:
        """It does not serve any more: `_down` follows once its executor is gone."""
        for member in self._members:
            if member.instance is instance and member.state is MemberState.SERVING:
                member.state = MemberState.DOWN
                member.reason = fault.message
                self._on_change()

    def _down(self, member: Member, fault: Fault, wait_s: float | None) -> None:
        self._withdraw(member)
        member.state = MemberState.STOPPED if wait_s is None else MemberState.DOWN
        member.deaths += 1
        member.reason = fault.message
        after = "it stays down" if wait_s is None else f"it is opened anew in {wait_s:.2g} s"
        log.error(
            "instance %s is down, %s: %s", member.name, after, fault.message, extra=of_model(self._feed.ledger.name)
        )
        self._on_change()

    def _serves(self, member: Member) -> None:
        if member.deaths:
            log.info("instance %s serves again", member.name, extra=of_model(self._feed.ledger.name))
        member.state = MemberState.SERVING
        self._on_change()

    def _instance(self, context: InstanceContext) -> ThreadInstance | TaskInstance:
        if getattr(self._backend_model, "asynchronous", False):
            return TaskInstance(context, self._feed, self._open_async, self._dying)
        may_move = context.kind != "GPU" and not self._decoupled and not context.host_policy.binds
        return ThreadInstance(context, self._feed, self._placement, self._open_on_thread, may_move=may_move)

    def _open_on_thread(self, context: InstanceContext) -> BackendInstance:
        bind(context.host_policy)
        executor = self._backend_model.open_instance(context)
        try:
            self._warmup.run(self._feed.ledger, executor)
        except BaseException:
            executor.close()
            raise
        return executor

    async def _open_async(self, context: InstanceContext, nursery: trio.Nursery) -> AsyncInstance:
        try:
            executor: AsyncInstance = self._backend_model.open_instance(context)  # type: ignore[assignment]
        except SystemExit as error:  # a user model's; here it would end the engine
            raise as_fault(error) from error
        try:
            await executor.open(nursery)
            await self._warmup.run_async(self._feed.ledger, executor)
        except BaseException:
            await close(executor, context.name, self._close_timeout_s)
            raise
        return executor


class _Serving(trio.TaskStatus[None]):
    """Remembers whether an instance has served before, and passes on that it does."""

    def __init__(self, instances: Instances, member: Member, task_status: trio.TaskStatus[None]) -> None:
        self.happened = False
        self._instances = instances
        self._member = member
        self._task_status = task_status

    def started(self, value: None = None) -> None:
        self._instances._serves(self._member)
        if not self.happened:
            self.happened = True
            self._task_status.started()
