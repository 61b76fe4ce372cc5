"""The usual call: byte for byte one before it on the same connection, but for its stream and its tensors.

    received   HEADERS | stream | block | DATA | stream | length, message | raw 0 | tag, length | raw 1
    answered   the same, and then HEADERS | stream | trailers

What is not `stream` or `raw` is equal, so what the first call said and was allowed holds for all that follow in the
same generation, and the text of the answers too while the model gives outputs of the same form. Whatever differs takes
the long way, frame by frame through reader.py, call.py and unary_infer.py.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from ....schema.fault import Fault
from ....schema.kserve_grpc import write_response
from ...usual import PREFIX_BYTES_MAX, Usual
from ..wire import reply as block
from ..wire.constants import DATA, END_HEADERS, END_STREAM, HEADERS, JOIN_BYTES_MAX, frame_head, headers_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....engine.port.served import Inference, Served
    from ....schema.inference import InferenceRequest, InferenceResponse, ResponseTemplate
    from ....schema.kserve_grpc_familiar import Familiar
    from ....schema.tensor import Buffer
    from .call import Call
    from .head import Head
    from .port import Transport

_logger = logging.getLogger("despina.grpc")

_HEAD = 9
"""Bytes of a frame head, the stream id in the last four."""
_BEGINNING = headers_frame(0, block.INITIAL, end=False)
_ENDING = headers_frame(0, block.TRAILERS_OK, end=True)


class UsualCalls(Usual):
    """Any number of them may be in flight."""

    _connection: Transport

    def __init__(
        self,
        connection: Transport,
        engine: Any,
        model: Served,
        request: InferenceRequest,
        familiar: Familiar,
        head: Head,
        frames: bytes,
        answer: Callable[[Call, Inference], None],
    ) -> None:
        """`frames` are those of a call for `request` with `head`; see `fits`."""
        self._answer_long = answer
        self.size = len(frames)
        length = int.from_bytes(frames[:3], "big")
        self._head = head
        data_at = _HEAD + length
        self._stream_at = data_at + 5
        message_at = data_at + _HEAD + 5
        self._data_bytes = len(frames) - data_at - _HEAD
        first = familiar.parts[0]
        self._start = frames[:5]
        self._middle = frames[_HEAD : self._stream_at]
        self._rest_at = data_at + _HEAD
        self._rest = frames[self._rest_at : message_at + first[5]]
        self._heads = [(message_at + at, text) for _, _, _, at, text, _, _ in familiar.parts[1:]]
        """Where else the bytes must be as they were."""
        parts = [
            (name, datatype, shape, slice(message_at + start, message_at + stop))
            for name, datatype, shape, _, _, start, stop in familiar.parts
        ]
        super().__init__(connection, engine, model, request, parts)
        self._template: ResponseTemplate | None = None
        """Of the answers that have the form of `_reply`."""
        self._reply: list[Buffer] | None = None
        """The pieces of an answer: streams at 1, 3 and -2, outputs at every other place from 5 on."""
        self._outputs = slice(5, 5)
        self._reply_bytes = 0
        """Of its DATA."""

    @staticmethod
    def fits(connection: Transport, head: Head, frames: bytes, message: bytes) -> bool:
        """Whether these are a HEADERS and a DATA frame of one stream, without frills, with `message` and no more; and
        whether the header block means `head` as long as nothing changes that. None fit while calls are logged, or the
        connection ends."""
        length = int.from_bytes(frames[:3], "big")
        data_at = _HEAD + length
        return (
            length <= PREFIX_BYTES_MAX
            and not connection.draining
            and not _logger.isEnabledFor(logging.DEBUG)
            and connection.known_head(frames[_HEAD:data_at]) is head
            and frames[3:5] == bytes((HEADERS, END_HEADERS))
            and frames[data_at + 3 : data_at + 5] == bytes((DATA, END_STREAM))
            and frames[5:9] == frames[data_at + 5 : data_at + 9]
            and frames[data_at + _HEAD :] == b"\0" + len(message).to_bytes(4, "big") + message
        )

    def take(self, data: bytes, at: int) -> bool:
        """Takes a usual call that begins at `at`, where `size` bytes are there. False, and nothing is done, where
        there is anything else."""
        if not data.startswith(self._start, at):
            return False
        if at or len(data) != self.size:
            if not data.startswith(self._middle, at + _HEAD):
                return False  # before anything is copied
            data = data[at : at + self.size]
        stream = data[5:9]
        if not (
            data.startswith(self._middle, _HEAD)
            and data.startswith(stream, self._stream_at)
            and data.startswith(self._rest, self._rest_at)
        ):
            return False
        for index, text in self._heads:
            if not data.startswith(text, index):
                return False
        if self._generation.number != self._number:
            return False
        call = self._connection.open_usual(int.from_bytes(stream, "big"), self._head, self._data_bytes)
        if call is None:
            return False
        try:
            request = self.request_in(data)
            job = self.model.submit(request, partial(self._answer, call), call.deadline)
        except Fault as fault:
            call.finish(fault.grpc_status, fault.message)
        except Exception as problem:
            call.break_off("an inference request failed on its way in", problem)
        else:
            if not call.done:
                call.on_abandoned = job.cancel
        return True

    def _answer(self, call: Call, job: Inference) -> None:
        """The engine's `on_done`. Never raises: nobody else would end the call."""
        try:
            response = job.response
            if response is None or response.template is None or job.fault is not None or response.parameters:
                self._answer_long(call, job)
                return
            if response.template is not self._template:
                self._learn(response, response.template)
            connection = self._connection
            if self._reply is None or call.done:
                self._answer_long(call, job)
                return
            pieces = self._reply.copy()
            pieces[1] = pieces[3] = pieces[-2] = call.id.to_bytes(4, "big")
            pieces[self._outputs] = response.wires
            answer = b"".join(pieces)
            if not connection.outlet.takes(call, self._reply_bytes):
                self._answer_long(call, job)
                return
            call.on_abandoned = None
            connection.outlet.put(answer)
            call.sent_whole()
            connection.flush_soon()
        except Exception as problem:
            call.break_off("a response cannot be sent", problem)

    def _learn(self, response: InferenceResponse, template: ResponseTemplate) -> None:
        """Cuts the answer into what all answers like it share and the rest."""
        self._template = template
        self._reply = None
        try:
            buffers, size = write_response(response)
        except Exception:
            return  # the long way tells what is wrong
        count = len(response.wires)
        first = len(buffers) - 2 * count + 1
        bytes_max = min(JOIN_BYTES_MAX - 5, self._connection.settings.send_bytes_max)
        if not count or buffers[first::2] != list(response.wires) or size > bytes_max:
            return
        pieces: list[Buffer] = [_BEGINNING[:5], b"", _BEGINNING[_HEAD:] + frame_head(size + 5, DATA, 0, 0)[:5], b""]
        pieces.append(b"\0" + size.to_bytes(4, "big") + b"".join(buffers[:first]))
        pieces += buffers[first:]
        pieces += (_ENDING[:5], b"", _ENDING[_HEAD:])
        self._reply = pieces
        self._outputs = slice(5, 5 + 2 * count, 2)
        self._reply_bytes = size + 5
