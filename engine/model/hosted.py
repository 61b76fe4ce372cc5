"""What the repository, its registry and the metrics page see of one version of one model, whatever it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from ..port.served import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..execute.company import Company
    from ..observe.statistics import ModelStats
    from ..observe.status import ActorStatus, Workload


class HostedVersion(Served, Protocol):
    """An actor. Everything is for the trio thread; numbers may be read on any."""

    namespace: str
    """The repository that it is of, where that tells models of one name apart; else empty."""
    statistics: ModelStats
    carried: ModelStats
    """What versions of the same number had counted before an overlapping reload replaced them by this one."""
    load_seconds: float
    accepting: bool
    """Whether requests are taken that nobody has pinned it for."""
    company: Company
    """For callers in process."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """The devices that it executes on, ascending; empty for a model on the CPU."""
        ...

    @property
    def pending(self) -> int:
        """Requests waiting to execute, now."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether something is in flight, or will be of what has begun: a sequence, what somebody has pinned it for."""
        ...

    @property
    def takes_room(self) -> bool:
        """Whether it has a model in memory."""
        ...

    def problems(self) -> Sequence[str]:
        """Why it serves less than it should."""
        ...

    def status(self) -> Sequence[ActorStatus]:
        """What its parts do now."""
        ...

    def workload(self) -> Workload:
        """How much it has to do now. From any thread."""
        ...

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Opens, reports started, serves until `drain` ends or it is cancelled. Raises what opening raised; nothing is
        left behind in any case."""
        ...

    @property
    def inflight(self) -> int:
        """Requests accepted and not over."""
        ...

    def pin_alone(self) -> Callable[[], None]:
        """As `pin`, but for what it is made of: whoever calls pins that himself."""
        ...

    async def until_idle(self) -> None:
        """Waits until no request is in flight, for now."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Accepts nothing more but from those who have pinned it, lets what is inside finish for at most `grace_s`,
        stops. Returns when all is closed. Cancelled, it leaves the version not accepting but running."""
        ...
