"""What a library tells after `execute` has returned, or of streams: taken by a thread of the instance's.

The library's own threads never touch the interpreter: they put into an outbox, which this thread waits for. A library
whose callers read slowly waits in `TRITONBACKEND_ResponseSend`, once 256 responses wait here.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from ...native.extension_port import ANSWER, WATCH
from ...schema.fault import Fault
from .faults import fault_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ...engine.port.work import BackendJob, BackendStream, LateAnswer
    from ...native.extension_port import Extension, Told
    from ...schema.tensor import Tensor

log = logging.getLogger("despina.backends.native")

IDLE_MS: Final = 60_000
WATCHED_MS: Final = 20
"""How soon a library that asks for it learns that a caller has left."""


class Latecomers:
    """Of one instance."""

    def __init__(
        self, native: Extension, address: int, name: str, tensors: Callable[[Sequence[Any]], list[Tensor]]
    ) -> None:
        self._native = native
        self._address = address
        self._name = name
        self._tensors = tensors
        self.executing: tuple[int, Sequence[BackendJob]] = (0, ())
        """The batch in hand: the first tag, and the jobs that have it and those after it."""
        self._lock = threading.Lock()
        self._streams: dict[int, BackendStream] = {}
        self._answers: dict[int, LateAnswer] = {}
        self._watchable: dict[int, BackendJob] = {}
        self._watched: dict[int, BackendJob] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"despina/{name}/late", daemon=True)
        self._thread.start()

    def expect_streams(self, jobs: Mapping[int, BackendStream]) -> None:
        with self._lock:
            self._streams.update(jobs)
            self._watchable.update(jobs)

    def expect(self, answers: Mapping[int, LateAnswer], jobs: Mapping[int, BackendJob]) -> None:
        with self._lock:
            self._answers.update(answers)
            self._watchable.update(jobs)

    def forget(self, tags: Iterable[int]) -> None:
        """The engine answers these."""
        with self._lock:
            for tag in tags:
                self._drop(tag)

    def take(self, told: Iterable[Told]) -> None:
        """From any thread."""
        for one in told:
            try:
                self._take(one)
            except Exception:
                log.exception("model instance '%s': an answer is lost", self._name)

    def close(self) -> None:
        self._closing = True
        self._native.instance_stop_waiting(self._address)
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self.take(self._native.instance_wait(self._address, WATCHED_MS if self._watched else IDLE_MS))
            with self._lock:
                gone = [tag for tag, job in self._watched.items() if job.is_cancelled()]
                for tag in gone:
                    del self._watched[tag]
            for tag in gone:
                self._native.instance_cancel(self._address, tag)

    def _take(self, told: Told) -> None:
        kind, tag, final, outputs, parameters, code, text = told
        if kind == WATCH:
            with self._lock:
                job = self._watchable.get(tag) or self._job_in_hand(tag)
                if job is not None:
                    self._watched[tag] = job
            return
        if kind != ANSWER:
            log.error("model instance '%s': states and rescheduling belong into execute", self._name)
            return
        with self._lock:
            stream = self._streams.get(tag)
            answer = self._answers.get(tag)
            if final:
                self._drop(tag)
        if stream is not None:
            self._send(stream, final, outputs, parameters, code, text)
        elif answer is not None:
            self._answer(answer, outputs, parameters, code, text)

    def _job_in_hand(self, tag: int) -> BackendJob | None:
        first, jobs = self.executing
        return jobs[tag - first] if 0 <= tag - first < len(jobs) else None

    def _send(self, stream: BackendStream, final: bool, outputs: Any, parameters: Any, code: int, text: str) -> None:
        try:
            tensors = None if outputs is None else self._tensors(outputs)
        except Fault as fault:
            stream.send_fault(fault, final=final)
            return
        if code >= 0:
            stream.send_fault(fault_of(code, text), final=final)
        else:
            stream.send(tensors, parameters, final=final)

    def _answer(self, answer: LateAnswer, outputs: Any, parameters: Any, code: int, text: str) -> None:
        try:
            if code >= 0:
                answer.fail(fault_of(code, text))
            else:
                answer.respond(self._tensors(outputs or ()), parameters)
        except Fault as fault:
            answer.fail(fault)

    def _drop(self, tag: int) -> None:
        self._streams.pop(tag, None)
        self._answers.pop(tag, None)
        self._watchable.pop(tag, None)
        self._watched.pop(tag, None)
