"""Versions whose answers are kept. They differ from others in how requests come in only: see calls.py."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ...request.together import submit_each
from ..ensemble.version import EnsembleVersion
from ..version import ModelVersion
from .calls import Calls
from .key import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ....schema.inference import InferenceRequest
    from ...port.served import Inference
    from ...port.settings import EngineSettings
    from ...request.job import Job
    from .keeper import Keeper


class CachedVersion(ModelVersion):
    """Of a model that a backend executes."""

    def __init__(self, *, keeper: Keeper, settings: EngineSettings, **rest: Any) -> None:
        super().__init__(settings=settings, **rest)
        self.buffers = None  # one execution may be several requests'
        self.statistics.keeps()
        keys = Keys(self.name, self.version, self.generation)
        self._calls = Calls(
            submit=super().submit,
            admission=self.admission,
            ledger=self.ledger,
            statistics=self.statistics,
            keeper=keeper,
            keys=lambda: keys,
            clock=rest["clock"],
            joins=settings.cache_joins,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._calls.run_beside(partial(super().run, task_status))

    async def drain(self, grace_s: float) -> None:
        self._calls.stop_looking()
        await super().drain(grace_s)

    def submit(self, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0) -> Job:
        if not self.accepting and not self._is_pinned_by(request):
            raise self._refusal(request)
        return self._calls.submit(request, on_done, deadline)

    def submit_all(
        self,
        requests: Sequence[InferenceRequest],
        on_done: Callable[[Job], None],
        refused: Callable[[InferenceRequest, Exception], None],
    ) -> list[Job]:
        """See port/served.py. Each is looked up by itself."""
        return submit_each(self.submit, requests, on_done, refused)

    def blockers(self, inference: Inference) -> Sequence[Sequence[Job]]:
        executed = self._calls.executed_for(inference)
        return () if executed is None else super().blockers(executed)

    def _can_submit_anywhere(self) -> bool:
        return False


class CachedEnsemble(EnsembleVersion):
    """Of an ensemble: a hit spares all of its steps. What is kept holds for as long as its models serve."""

    def __init__(self, *, keeper: Keeper, settings: EngineSettings, clock: Callable[[], float], **rest: Any) -> None:
        super().__init__(settings=settings, clock=clock, **rest)
        self.statistics.keeps()
        self._keys: Keys | None = None
        self._calls = Calls(
            submit=super().submit,
            admission=self._admission,
            ledger=self.ledger,
            statistics=self.statistics,
            keeper=keeper,
            keys=self._keys_now,
            clock=clock,
            joins=settings.cache_joins,
        )

    def _keys_now(self) -> Keys:
        generation = self.generation
        if self._keys is None or self._keys.generation != generation:
            self._keys = Keys(self.name, self.version, generation)
        return self._keys

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._calls.run_beside(partial(super().run, task_status))

    async def drain(self, grace_s: float) -> None:
        self._calls.stop_looking()
        await super().drain(grace_s)

    def submit(self, request: InferenceRequest, on_done: Callable[[Job], None], deadline: float = 0.0) -> Job:  # type: ignore[override]  # whichever answers
        self._check_accepting(request)
        return self._calls.submit(request, on_done, deadline)

    def blockers(self, inference: Inference) -> Sequence[Sequence[Job]]:
        executed = self._calls.executed_for(inference)
        return () if executed is None else super().blockers(executed)
