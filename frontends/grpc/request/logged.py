"""Calls that are noted in an access log. A call becomes one when its method takes it over; others never know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ....engine.port.concerns import about
from ...access_log import AccessLog, Entry
from .call import Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....engine.port.served import Inference
    from ....schema.tensor import Buffer
    from .port import Method

CANCELLED = 1
"""gRPC's number."""


class LoggedCall(Call):
    """Written when its reply has left the call, or its peer has left it."""

    access: AccessLog
    entry: Entry
    is_written = False

    def notice(self, job: Inference) -> None:
        """While its caller is told: what became of its request."""
        self.entry.executed(job, self)

    def send_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        self._replies(size)
        super().send_encoded(buffers, size, compressed=compressed)

    def reply_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        self._replies(size)
        super().reply_encoded(buffers, size, compressed=compressed)

    def finish(self, status: int = 0, text: str = "") -> None:
        if not self.done:
            self.entry.status = status
            self.entry.replied()
        super().finish(status, text)

    def take(self) -> Buffer:
        message = super().take()
        self.entry.request_bytes += len(message)
        return message

    def sent_whole(self) -> None:
        super().sent_whole()
        self._write()

    def abandon(self) -> None:
        if not self.done:
            self.entry.status = CANCELLED
        super().abandon()
        self._write()

    def _replies(self, size: int) -> None:
        self.entry.response_bytes += size
        self.entry.replied()

    def _write(self) -> None:
        if not self.is_written:
            self.is_written = True
            entry = self.entry
            if entry.concern is None:
                entry.concern = about(told=self)["concern"]
            self.access.write(entry, failed=entry.status != 0)


class LoggedMethod:
    """Serves what `method` does, and notes its calls in `log`."""

    def __init__(self, method: Method, log: AccessLog) -> None:
        self.is_streaming = method.is_streaming
        self.room_for = method.room_for
        self._method = method
        self._log = log

    def start(self, call: Call, message: Buffer) -> None:
        began_s = 0.0 if self.is_streaming else max(0.0, trio.current_time() - call.received_at)
        call.__class__ = LoggedCall
        assert isinstance(call, LoggedCall), "it has just become one"
        call.access = self._log
        call.entry = Entry("grpc", "", call.head.field(":path"), len(message), began_s)
        self._method.start(call, message)
