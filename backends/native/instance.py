"""One instance of a library's model: a call for each batch, and a thread for what it tells otherwise.

execute ──one call──▶ library ──▶ answers of this batch, in one list
                        └─ later, or as streams ──▶ outbox (C++) ──▶ Latecomers' thread ──▶ late answers, streams
"""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Final

from ...native.extension_port import ANSWER, RESCHEDULE, STATE
from ...schema.datatype import BY_NAME
from ...schema.fault import Fault, ModelFailure
from ...schema.inference import ResponseTemplate
from ...schema.tensor import Tensor
from .faults import check, fault_of
from .latecomers import Latecomers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.work import BackendJob, Batch
    from ...native.extension_port import AnswerOutput, BatchAnswer, Extension, Outcome, Told
    from .shapes import Shapes

log = logging.getLogger("despina.backends.native")

_NOTHING: Final = (0, ())
"""As the batch in hand."""


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
        self._reshape = shapes.of_input if shapes.reshapes_inputs else None
        self._next_tag = 1
        self._late = Latecomers(native, address, name, self.tensors)

    def execute(self, batch: Batch) -> None:
        jobs, first = batch.jobs, self._next_tag
        self._next_tag = first + len(jobs)
        self._late.executing = first, jobs
        try:
            if self._decoupled:
                self._start_streams(batch, jobs, first)
            else:
                self._execute(batch, jobs, first)
        finally:
            self._late.executing = _NOTHING

    def _start_streams(self, batch: Batch, jobs: Sequence[BackendJob], first: int) -> None:
        self._late.expect_streams(dict(enumerate(jobs, first)))  # type: ignore[arg-type]  # decoupled models get no others
        outcome, _, _ = self._call(batch, jobs, first)
        if outcome[0] >= 0:
            self._late.forget(range(first, first + len(jobs)))
        check(outcome)

    def _execute(self, batch: Batch, jobs: Sequence[BackendJob], first: int) -> None:
        outcome, answers, told = self._call(batch, jobs, first)
        others = []
        for place, answer in enumerate(answers):
            if answer is None:
                others.append(place)
            else:
                template, wires = answer
                jobs[place].respond_as(template, wires)
        if others or told or outcome[0] >= 0:
            answered = self._answer(first, jobs, told)
            check(outcome)
            late = {first + place: jobs[place] for place in others if place not in answered}
            if late:
                self._defer(late)

    def _call(
        self, batch: Batch, jobs: Sequence[BackendJob], first: int
    ) -> tuple[Outcome, Sequence[BatchAnswer], list[Told]]:
        """The one into the library: what came of it, of each job its answer if that has a form, and all else."""
        every = self._shapes.outputs
        outcome, started_ns, ended_ns, answers, told = self._native.instance_execute(
            self._address,
            first,
            [
                (
                    request.id,
                    request.inputs,
                    request.outputs or every,
                    request.parameters,
                    request.timeout_us,
                    request.correlation_id,
                    request.sequence_start,
                    request.sequence_end,
                )
                for job in jobs
                for request in (job.request,)
            ],
            self._reshape,
            self._template,
        )
        if batch.started_ns <= started_ns <= ended_ns:
            batch.inputs_ready_ns, batch.outputs_started_ns = started_ns, ended_ns
        return outcome, answers, told

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
        """What a response of the library's holds, with the shapes that clients see. Raises InvalidArgument, and
        ModelFailure for an output that has another size than its shape."""
        of_output = self._shapes.of_output
        made = []
        for name, datatype, shape, data in outputs:
            check_size(name, datatype, shape, len(data))
            made.append(Tensor(name, datatype, of_output(name, shape), data))
        return made

    def _template(self, outputs: Sequence[AnswerOutput]) -> ResponseTemplate | None:
        """What the jobs' answers with such outputs have in common. None where something is wrong with them, which
        `tensors` says."""
        of_output = self._shapes.of_output
        try:
            for output in outputs:
                check_size(*output)
            tensors = [(name, datatype, tuple(of_output(name, shape))) for name, datatype, shape, _ in outputs]
        except Fault:
            return None
        _, jobs = self._late.executing
        return ResponseTemplate(jobs[0].request.model_name, jobs[0].version_text, tensors)

    def _answer(self, first: int, jobs: Sequence[BackendJob], told: Sequence[Told]) -> set[int]:
        """Takes what the library has told within `execute` otherwise. The places of those that were answered."""
        answered = set()
        for kind, tag, _, outputs, parameters, code, text in told:
            place = tag - first
            if not 0 <= place < len(jobs):
                continue  # of a batch that has failed since
            job = jobs[place]
            try:
                if kind == STATE:
                    (tensor,) = self.tensors([outputs])
                    job.set_state(tensor.name, tensor)
                elif kind == RESCHEDULE:
                    answered.add(place)
                    job.reschedule()
                elif kind == ANSWER:
                    answered.add(place)
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


def check_size(name: str, datatype: str, shape: Sequence[int], size: int) -> None:
    """Raises ModelFailure for an output that a library has given so many bytes, where its shape says otherwise."""
    kind = BY_NAME.get(datatype)
    if kind is not None and kind.byte_size and size != kind.byte_size * math.prod(shape):
        raise ModelFailure(
            f"output '{name}': shape {list(shape)} of {datatype} needs {kind.byte_size * math.prod(shape)} bytes, the "
            f"backend gave {size}"
        )
