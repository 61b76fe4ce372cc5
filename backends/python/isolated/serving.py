"""What a model's own process does with a batch: executes it, and says what came of it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from ....schema.fault import Fault, Internal
from ....schema.inference import InferenceRequest
from ..failure import failure_text
from .answering import ChildJob, ChildStream, ChildTrace, Source
from .frames import fault_fields
from .line import tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....engine.port.backend import BackendInstance
    from ....schema.tensor import Tensor
    from .frames import Message, Placed
    from .listening import Link
    from .setup import Setup


class Served:
    """The instance of this process, and its streams."""

    def __init__(self, link: Link, instance: BackendInstance, streams: dict[int, ChildStream], setup: Setup) -> None:
        self._link = link
        self._source = Source(link, setup.iterative, keeps_states=setup.library is not None)
        self._instance = instance
        self._decoupled = setup.decoupled
        self._streams = streams
        self.tokens = tokens()
        """See line.py."""

    def execute(self, message: Message) -> None:
        """Executes a batch and says what came of it."""
        if message.kind == "ahead" and (refusal := self._refusal(message.fields[1])):
            self._link.say(refusal)
            return
        said, placed = self._executed(message)
        # The inputs' segment goes back with the answers, so that the next batch is put where caches have it.
        message.wires = []
        self._link.say_placed("executed", said, placed)

    def _executed(self, message: Message) -> tuple[tuple[Any, ...], Placed]:
        """What is said of a batch, and its answers."""
        begun_ns = time.monotonic_ns()
        jobs = self._jobs(message)
        batch = _ChildBatch(jobs, time.monotonic_ns())
        fault: Fault | None = None
        try:
            self._instance.execute(batch)  # type: ignore[arg-type]  # as much of one as it looks at
        except Fault as error:
            fault = error
        except BaseException as error:  # a model may raise anything
            fault = Internal(failure_text(error, ()))
        batch.outputs_started_ns = batch.outputs_started_ns or time.monotonic_ns()
        told = None if fault is None else fault_fields(fault)
        answers = []
        tensors: list[Tensor] = []
        for job in jobs:
            if job.again:
                self._streams.pop(job.number, None)
            answers.append(job.answer())
            tensors += job.states
            tensors += job.outputs
        return (told, begun_ns, batch.inputs_ready_ns, batch.outputs_started_ns, answers), self._link.place(tensors)

    def close(self) -> None:
        self._instance.close()

    def _refusal(self, latest_ns: int) -> str:
        """Why what was handed over before its turn is not executed; nothing if it is."""
        try:
            os.eventfd_read(self.tokens)
        except BlockingIOError:
            return "withdrawn"
        return "too late" if latest_ns and time.monotonic_ns() > latest_ns else ""

    def _jobs(self, message: Message) -> list[ChildJob]:
        kind = ChildStream if self._decoupled else ChildJob
        at = 0
        jobs: list[ChildJob] = []
        for number, size, received_ns, count, values in message.fields[0]:
            request = request_of(number, values, message.some_tensors(at, at + count))
            at += count
            job = kind(number, request, size, received_ns, self._source)
            jobs.append(job)
            if isinstance(job, ChildStream):
                self._streams[number] = job
        return jobs


class _ChildBatch:
    def __init__(self, jobs: list[ChildJob], started_ns: int) -> None:
        self.jobs = jobs
        self.started_ns = started_ns
        self.inputs_ready_ns = started_ns
        self.outputs_started_ns = 0


def request_of(number: int, values: tuple[Any, ...], inputs: Sequence[Tensor]) -> InferenceRequest:
    """The request whose `request_fields` these are."""
    name, version, id, outputs, parameters, priority, timeout_us, correlation_id, starts, ends, traced, context = values
    request = InferenceRequest(
        name,
        {tensor.name: tensor for tensor in inputs},
        model_version=version,
        id=id,
        outputs=outputs,
        parameters=parameters,
        priority=priority,
        timeout_us=timeout_us,
        correlation_id=correlation_id,
        sequence_start=starts,
        sequence_end=ends,
    )
    if traced:
        request.trace = ChildTrace(context, number)
    return request
