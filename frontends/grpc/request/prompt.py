"""Calls that are answered at once: a function of the message that does not wait, so that the call needs no task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ....schema.fault import Fault
from ....schema.wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....schema.tensor import Buffer
    from .call import Call

_INTERNAL: Final = 13


class PromptMethod:
    """Serves a path by a function from the request's message to the answer's, which may raise Fault."""

    is_streaming = False
    room_for = None

    def __init__(self, request_type: Any, function: Callable[[Any], Any]) -> None:
        self._request_type = request_type
        self._function = function

    def start(self, call: Call, message: Buffer) -> None:
        try:
            buffers, size = codec.encode(self._function(codec.decode(self._request_type, message)))
        except codec.Malformed:
            call.finish(_INTERNAL, "Unable to parse request")
        except Fault as fault:
            call.finish(fault.grpc_status, fault.message)
        else:
            call.reply(buffers, size)
