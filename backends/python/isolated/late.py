"""What one process answers after its batches are over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frames import fault_of

if TYPE_CHECKING:
    from ....engine.port.work import BackendJob, LateAnswer
    from ....schema.fault import Fault
    from .frames import Message


class LateAnswers:
    """Of one process, by the numbers of its jobs. For the trio thread."""

    def __init__(self, jobs: dict[int, BackendJob]) -> None:
        """`jobs` are with the process until they are answered."""
        self._jobs = jobs
        self._waiting: dict[int, LateAnswer] = {}
        self._early: dict[int, Message] = {}
        """Answers that came before the news that they would."""

    def __contains__(self, number: int) -> bool:
        return number in self._waiting

    def defer(self, number: int, job: BackendJob) -> None:
        """Its batch is over, and its answer will come."""
        self._waiting[number] = job.defer()
        early = self._early.pop(number, None)
        if early is not None:
            self.answer(early)

    def answer(self, message: Message) -> None:
        """One has come."""
        number, failed, parameters = message.fields
        later = self._waiting.pop(number, None)
        if later is None:  # sent by another thread before `execute` had returned
            self._early[number] = message
            return
        self._jobs.pop(number, None)
        if failed is None:
            later.respond(message.tensors, parameters)
        else:
            later.fail(fault_of(failed))

    def fail(self, fault: Fault) -> None:
        """None will come any more."""
        while self._waiting:
            self._waiting.popitem()[1].fail(fault)
