"""Complete traces on their way to where they are kept: a thread of its own, so that no request waits for a disk.

| message       | effect                                                     |
|---------------|------------------------------------------------------------|
| put(trace)    | the sink takes it; dropped, and counted, when too many wait |
| retire(s)     | the sink writes what it holds of that setting              |
| close()       | all of it is carried out, then the sink is closed          |
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from typing import TYPE_CHECKING

from ..port.sink import FinishedTrace
from .status import ActorStatus

if TYPE_CHECKING:
    from ..port.sink import TraceGroup, TraceSink

log = logging.getLogger("despina.engine.trace")

WAITING_TRACES_MAX = 10_000
WAITING_BYTES_MAX = 256 * 1024 * 1024
"""Tensors of traces that wait to be written."""


class TraceWorker:
    """Owns the thread and the sink. Messages come from the trio thread."""

    def __init__(self, sink: TraceSink) -> None:
        self.dropped = 0
        self._sink = sink
        self._inbox: queue.SimpleQueue[FinishedTrace | TraceGroup | None] = queue.SimpleQueue()
        # Each counter has one writer: the bytes that wait are the difference.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="despina/traces", daemon=True
        )
        self._thread.start()

    def status(self) -> ActorStatus:
        """What waits to be written."""
        return ActorStatus(
            name="trace worker",
            doing=f"{self._put_bytes - self._taken_bytes} bytes of tensors wait",
            depth=self._inbox.qsize(),
            bound=WAITING_TRACES_MAX,
            facts={"dropped": self.dropped},
        )

    def put(self, finished: FinishedTrace) -> None:
        """Never blocks."""
        size = finished.byte_size()
        if self._inbox.qsize() >= WAITING_TRACES_MAX or self._put_bytes - self._taken_bytes + size > WAITING_BYTES_MAX:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8, ...
                log.warning("traces come faster than they can be written: %d dropped so far", self.dropped)
            return
        self._put_bytes += size
        self._inbox.put(finished)

    def retire(self, setting: TraceGroup) -> None:
        self._inbox.put(setting)

    def close(self) -> None:
        """Blocks until everything is written."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (message := self._inbox.get()) is not None:
            try:
                if isinstance(message, FinishedTrace):
                    self._taken_bytes += message.byte_size()
                    self._sink.take(message)
                else:
                    self._sink.retire(message)
            except Exception:
                log.exception("a trace was lost")
        try:
            self._sink.close()
        except Exception:
            log.exception("traces could not be closed")
