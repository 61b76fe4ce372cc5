"""Calls served by a coroutine: grpclib's handlers, which generated services consist of, on a stream that looks like
grpclib's. One task per call, under the call's deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from ....schema.fault import Fault, ShuttingDown
from ....schema.wire import codec
from .call import STOPPING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grpclib.const import Handler

    from ....schema.tensor import Buffer
    from .call import Call

_UNSENT_BYTES_MAX = 4_194_304
"""A handler that has replied more than this waits until the client reads."""


class TaskMethod:
    """Serves a path by grpclib's `Handler`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.is_streaming = handler.cardinality.client_streaming
        self.room_for = None

    def start(self, call: Call, message: Buffer) -> None:
        call.start_task(self._serve, call, None if self.is_streaming else message)

    async def _serve(self, call: Call, message: Buffer | None) -> None:
        if call.done:
            return
        deadline = call.deadline or float("inf")
        with trio.CancelScope(deadline=deadline) as scope:
            call.on_abandoned = scope.cancel
            try:
                await self._handler.func(Stream(call, self._handler.request_type, message))
                call.finish()
            except codec.Malformed:
                call.finish(Status.INTERNAL.value, "Unable to parse request")
            except Fault as fault:
                call.finish(fault.grpc_status, fault.message)
            except GRPCError as error:
                call.finish(error.status.value, error.message or "")
            except NotImplementedError:
                call.finish(Status.UNIMPLEMENTED.value)
            call.on_abandoned = None
        if scope.cancelled_caught:
            call.finish(Status.DEADLINE_EXCEEDED.value, "Deadline Exceeded")


class Stream:
    """What a handler sees of its call: the part of grpclib's `Stream` that generated services use."""

    def __init__(self, call: Call, request_type: Any, first: Buffer | None) -> None:
        """`first` is the message that the call has started with, if it has."""
        self._call = call
        self._request_type = request_type
        self._first = first

    @property
    def metadata(self) -> Any:
        return self._call.metadata

    @property
    def deadline(self) -> float:
        """Seconds on trio's clock, 0 for none."""
        return self._call.deadline

    async def recv_message(self) -> Any:
        """The next message, or None when the client sends no more. Raises Malformed, and ShuttingDown when the server
        stops while the client is to send more."""
        call = self._call
        first, self._first = self._first, None
        if first is not None:
            return codec.decode(self._request_type, first)
        while not call.messages:
            if call.ended or call.done:
                return None
            if call.stopping:
                raise ShuttingDown(STOPPING)
            waiter = trio.Event()
            call.on_input = waiter.set
            try:
                await waiter.wait()
            finally:
                call.on_input = None
        return codec.decode(self._request_type, call.take())

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send_message(self, message: Any) -> None:
        """Replies one message. Waits while the client does not read."""
        buffers, size = codec.encode(message)
        self._call.send(buffers, size)
        while self._call.unsent_bytes > _UNSENT_BYTES_MAX and not self._call.done:
            waiter = trio.Event()
            self._call.on_output = waiter.set
            try:
                await waiter.wait()
            finally:
                self._call.on_output = None


def methods_of(service: Any) -> dict[str, TaskMethod]:
    """Path -> method for every RPC of a generated service."""
    mapping: Mapping[str, Handler] = service.__mapping__()
    return {path: TaskMethod(handler) for path, handler in mapping.items()}
