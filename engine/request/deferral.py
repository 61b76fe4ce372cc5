"""Answers of ordinary models that come after `execute` has returned, from any thread.

    execute: job.defer() ─▶ Deferral ──returned──▶ its batch ends without the job ──▶ respond or fail: the job ends
                                │ respond or fail before that: the job ends with its batch

A job is in flight until then, and ends once: what comes later is dropped. Nobody waits here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from ...schema.encoding import encoding_fault
from ...schema.inference import InferenceResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...schema.fault import Fault
    from ...schema.inference import InferenceRequest, Parameter
    from ...schema.tensor import Tensor


class Deferred(Protocol):
    """A job, as far as it matters here."""

    request: InferenceRequest
    response: InferenceResponse | None
    fault: Fault | None


class Book(Protocol):
    """Where its end is written down: see ledger.py."""

    version_text: str

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Runs a call on the trio thread soon."""
        ...

    def end_deferred(self, later: Deferral) -> None:
        """The answer has come after the batch."""
        ...


class Deferral:
    """Of one job. `respond` and `fail` are for any thread, the rest is for the trio thread."""

    __slots__ = ("_ledger", "batch", "has_come", "job")

    def __init__(self, job: Deferred, ledger: Book) -> None:
        self.job = job
        self.batch: object = None
        """What the job was executed in, once that is over."""
        self.has_come = False
        self._ledger = ledger

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        """As BackendJob.respond. Dropped if the job is over already."""
        fault = encoding_fault(outputs)
        request = self.job.request
        response = InferenceResponse(
            request.model_name, self._ledger.version_text, outputs, id=request.id, parameters=parameters
        )
        self._post(None if fault is not None else response, fault)

    def fail(self, fault: Fault) -> None:
        """As BackendJob.fail. Dropped if the job is over already. May be called within garbage collection."""
        self._post(None, fault)

    def _post(self, response: InferenceResponse | None, fault: Fault | None) -> None:
        try:
            self._ledger.post(self.come, response, fault)
        except trio.RunFinishedError:
            return

    def come(self, response: InferenceResponse | None, fault: Fault | None) -> None:
        """The answer is there."""
        if self.has_come:
            return
        self.has_come = True
        job = self.job
        if job.fault is None:  # else it has been given up: its batch has failed, or its deadline has passed
            job.response, job.fault = response, fault
        if self.batch is not None:
            self._ledger.end_deferred(self)
