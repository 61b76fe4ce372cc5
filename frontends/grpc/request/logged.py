"""Calls that are noted in an access log, from when somebody serves them. Without one there are none of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ....engine.port.concerns import about
from ...access_log import Entry
from .call import Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....engine.port.served import Inference
    from ....schema.tensor import Buffer
    from ...access_log import AccessLog
    from .head import Head
    from .port import Transport

CANCELLED: Final = 1
"""gRPC's number."""


class LoggedCall(Call):
    """Written when its reply has left the call, or its peer has left it."""

    def __init__(
        self,
        connection: Transport,
        stream_id: int,
        head: Head,
        now: float,
        window: int,
        receive_window: int,
        access: AccessLog,
    ) -> None:
        super().__init__(connection, stream_id, head, now, window, receive_window)
        self._access = access
        self._entry: Entry | None = None
        """None until the call is served, and once it is written."""

    def start_with(self, message: Buffer) -> None:
        method = self.head.method
        assert method is not None, "a head without a method is refused before"
        began_s = 0.0 if method.is_streaming else max(0.0, trio.current_time() - self.received_at)
        self._entry = Entry("grpc", "", self.head.field(":path"), len(message), began_s)
        super().start_with(message)

    def notice(self, job: Inference) -> None:
        """While its caller is told: what became of its request."""
        if self._entry is not None:
            self._entry.executed(job, self)

    def send_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        self._replies(size)
        super().send_encoded(buffers, size, compressed=compressed)

    def reply_encoded(self, buffers: Sequence[Buffer], size: int, *, compressed: bool = False) -> None:
        self._replies(size)
        super().reply_encoded(buffers, size, compressed=compressed)

    def finish(self, status: int = 0, text: str = "") -> None:
        if self._entry is not None and not self.done:
            self._entry.status = status
            self._entry.replied()
        super().finish(status, text)

    def take(self) -> Buffer:
        message = super().take()
        if self._entry is not None:
            self._entry.request_bytes += len(message)
        return message

    def sent_whole(self) -> None:
        super().sent_whole()
        self._write()

    def abandon(self) -> None:
        if self._entry is not None and not self.done:
            self._entry.status = CANCELLED
        super().abandon()
        self._write()

    def _replies(self, size: int) -> None:
        if self._entry is not None:
            self._entry.response_bytes += size
            self._entry.replied()

    def _write(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            if entry.concern is None:
                entry.concern = about(told=self)["concern"]
            self._access.write(entry, failed=entry.status != 0)
