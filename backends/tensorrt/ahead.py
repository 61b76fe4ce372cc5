"""The next batch on its way while one executes, for models with `eager_batching`.

    instance's thread: gather, copy in, enqueue on a free lane ──▶ the jobs' answers come later ──▶ the next batch
    second thread:     wait for the device, copy out, answer, the lane is free

With two lanes the copies of one batch overlap the kernels of the other. No more than two batches are under way: who
has no free lane waits.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

import attrs

from ...schema.fault import Fault, ModelFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.work import BackendJob, LateAnswer
    from ...schema.inference import InferenceRequest, Parameter
    from ...schema.tensor import Tensor
    from ..device import Gpu
    from .lane import Lane

_log = logging.getLogger("despina.backends.tensorrt")


@attrs.frozen
class Postponed:
    """A job whose answer comes after its batch: as much of a job as answering needs."""

    job: BackendJob
    later: LateAnswer

    @property
    def request(self) -> InferenceRequest:
        return self.job.request

    @property
    def batch_size(self) -> int:
        return self.job.batch_size

    def is_cancelled(self) -> bool:
        return self.job.is_cancelled()

    def respond(self, outputs: list[Tensor], parameters: dict[str, Parameter] | None = None) -> None:
        self.later.respond(outputs, parameters)


class Finisher:
    """The second thread, and the lanes that are free. `close` waits until everybody has been answered."""

    def __init__(self, name: str, gpu: Gpu, lanes: Sequence[Lane]) -> None:
        self._name = name
        self._gpu = gpu
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in lanes:
            self._free.put(lane)
        self._begun: queue.SimpleQueue[tuple[Lane, Sequence[Postponed], Callable[[], object]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=f"despina/{name}/outputs", daemon=True)
        self._thread.start()

    def take(self) -> Lane:
        """A lane that nobody uses; waits for one."""
        return self._free.get()

    def give_back(self, lane: Lane) -> None:
        self._free.put(lane)

    def finish(self, lane: Lane, jobs: Sequence[Postponed], answer: Callable[[], object]) -> None:
        """Runs `answer` on the second thread, and frees the lane; what it raises fails the jobs."""
        self._begun.put((lane, jobs, answer))

    def close(self) -> None:
        """Idempotent."""
        self._begun.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._gpu.use()
        while (begun := self._begun.get()) is not None:
            lane, jobs, answer = begun
            try:
                answer()
            except Exception as error:
                fault = (
                    error if isinstance(error, Fault) else ModelFailure(f"failed to run TensorRT inference: {error}")
                )
                _log.error("model instance '%s'", self._name, exc_info=error)
                for job in jobs:
                    job.later.fail(fault)
            finally:
                self._free.put(lane)
