"""One instance of a library's model: a call for each batch, and a thread for what it tells otherwise.

execute ──one call──▶ library ──▶ answers of this batch, in one list
                        └─ later, or as streams ──▶ outbox (C++) ──▶ Latecomers' thread ──▶ late answers, streams
"""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING, Any

from ...native.extension_port import ANSWER, RESCHEDULE, STATE
from ...schema.fault import Fault
from ...schema.tensor import Tensor
from .faults import check, fault_of
from .latecomers import Latecomers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.work import BackendJob, Batch
    from ...native.extension_port import Extension, Told
    from ...schema.inference import InferenceRequest
    from .shapes import Shapes

log = logging.getLogger("despina.backends.native")

_START, _END = 1, 2


class NativeInstance:
    """Calls never overlap."""

    movable = False

    def __init__(
        self,
        native: Extension,
        address: int,
        name: str,
        shapes: Shapes,
        *,
        decoupled: bool,
        says_ready: bool = False,
        on_close: Callable[[], object],
    ) -> None:
        """`says_ready`: the library wants to be asked whether the instance is ready. `on_close` is told at the end."""
        self.ready: Callable[[], bool] | None = self._ask_ready if says_ready else None
        self._native = native
        self._address = address
        self._name = name
        self._asking = threading.Lock()
        """Whoever has it asks the library something besides batches: the instance is there until then."""
        self._is_closed = False
        self._shapes = shapes
        self._decoupled = decoupled
        self._on_close = on_close
        self._tags = itertools.count(1)
        self._late = Latecomers(native, address, name, self.tensors)

    def execute(self, batch: Batch) -> None:
        jobs = {next(self._tags): job for job in batch.jobs}
        self._late.executing = jobs
        if self._decoupled:
            self._late.expect_streams(jobs)  # type: ignore[arg-type]  # decoupled models get no others
        outcome, started_ns, ended_ns, told = self._native.instance_execute(
            self._address, [self._given(tag, job.request) for tag, job in jobs.items()]
        )
        if batch.started_ns <= started_ns <= ended_ns:
            batch.inputs_ready_ns, batch.outputs_started_ns = started_ns, ended_ns
        if self._decoupled:
            if outcome[0] >= 0:
                self._late.forget(jobs)
            check(outcome)
            return
        answered = self._answer(jobs, told)
        check(outcome)
        if len(answered) < len(jobs):
            self._defer({tag: job for tag, job in jobs.items() if tag not in answered})

    def close(self) -> None:
        with self._asking:
            self._is_closed = True
        # What it still has, it may still ask about, and answer. An instance that waits here too long is given up.
        self._native.instance_until_left(self._address)
        self._late.close()
        self._native.instance_close(self._address)
        self._on_close()

    def _ask_ready(self) -> bool:
        """From any thread, also while the library executes."""
        with self._asking:
            if self._is_closed:
                return False
            code, text = self._native.instance_ready(self._address)
        if code >= 0:
            log.info("model instance '%s' says that it is not ready: %s", self._name, text)
        return code < 0

    def tensors(self, outputs: Sequence[Any]) -> list[Tensor]:
        """What a response of the library's holds, with the shapes that clients see. Raises InvalidArgument."""
        of_output = self._shapes.of_output
        return [Tensor(name, datatype, of_output(name, shape), data) for name, datatype, shape, data in outputs]

    def _given(self, tag: int, request: InferenceRequest) -> tuple[Any, ...]:
        of_input = self._shapes.of_input
        return (
            tag,
            request.id,
            (_START if request.sequence_start else 0) | (_END if request.sequence_end else 0),
            request.correlation_id,
            request.timeout_us,
            [
                (name, tensor.datatype, of_input(name, tensor.shape), tensor.memory())
                for name, tensor in request.inputs.items()
            ],
            request.outputs or self._shapes.outputs,
            request.parameters,
        )

    def _answer(self, jobs: dict[int, BackendJob], told: Sequence[Told]) -> set[int]:
        """Answers what was answered within `execute`. Which those are."""
        answered = set()
        for kind, tag, _, outputs, parameters, code, text in told:
            job = jobs[tag]
            try:
                if kind == STATE:
                    (tensor,) = self.tensors([outputs])
                    job.set_state(tensor.name, tensor)
                elif kind == RESCHEDULE:
                    answered.add(tag)
                    job.reschedule()
                elif kind == ANSWER:
                    answered.add(tag)
                    if code >= 0:
                        job.fail(fault_of(code, text))
                    else:
                        job.respond(self.tensors(outputs or ()), parameters)
            except Fault as fault:
                job.fail(fault)
        return answered

    def _defer(self, jobs: dict[int, BackendJob]) -> None:
        """The library keeps these: their answers come later."""
        self._late.expect({tag: job.defer() for tag, job in jobs.items()}, jobs)
        self._late.take(self._native.instance_let_be_late(self._address, list(jobs)))
