"""The usual request: byte for byte the one before it on the same connection, but for its tensors.

    received = [ HTTP head | JSON head | INPUT0 | INPUT1 ]     answered = [ HTTP head | JSON head | OUTPUT0 | OUTPUT1 ]
                 `_prefix`, equal        free                               `_start`, equal         free

What the first of them said and was allowed holds for all that follow in the same generation, and so does the text of
the answers while the model gives outputs of the same form. So a client that repeats itself costs two comparisons, one
of the generation's number, and its tensors. Whatever is not as it was takes the long way through `InferHandler`.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from ...schema.kserve_http_reply import encode_infer
from ...schema.tensor import COPY_BYTES_MAX, Tensor
from ...schema.texts import has_many
from .connection.http1_request import Http1Request
from .connection.outlet import JOIN_BYTES_MAX
from .connection.receiver import RECEIVE_BYTES
from .connection.status import head_of_reply
from .handler.problems import reply_problem
from .request.request import BINARY, JSON
from .request.short_way import MADE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.port.caller import Caller
    from ...engine.port.served import Inference, Served
    from ...schema.infer_head import ReplyFormat
    from ...schema.inference import InferenceRequest, InferenceResponse, ResponseTemplate
    from .connection.head import Head
    from .connection.receiver import Receiver
    from .request.request import HttpRequest

_logger = logging.getLogger("despina.http")

PREFIX_BYTES_MAX: Final = 4096
"""Of what is compared, for each connection. Clients choose it."""
_OWN_REFERENCES: Final = 2
"""To an object that only its owner's attribute holds, as `sys.getrefcount` counts."""


class UsualInfer:
    """One connection's, for one form of request. At most one of them is in flight, for a connection answers in order.
    Lives no longer than the engine's generation, unless one of its requests is in flight."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_connection",
        "_generation",
        "_head",
        "_is_joined",
        "_job",
        "_number",
        "_parts",
        "_prefix",
        "_reply",
        "_request",
        "_size",
        "_start",
        "_template",
        "_texts",
        "model",
    )

    def __init__(
        self,
        connection: Receiver,
        engine: Caller,
        model: Served,
        head: Head,
        texts: tuple[bytes, bytes],
        request: InferenceRequest,
        reply: ReplyFormat,
        answer: Callable[[HttpRequest, Served, ReplyFormat, Inference], None],
    ) -> None:
        """`request` is the first of them; `texts` are those of the HTTP head and the JSON head."""
        self._connection = connection
        self._request = request.alike()
        self.model = model
        self._generation = engine.generation
        self._number = engine.generation.number
        self._head = head
        self._texts = texts
        self._prefix = b"".join(texts)
        at = len(self._prefix)
        self._parts = []
        """Of each input name, datatype, shape, and where its bytes are in what is received."""
        for name, tensor in request.inputs.items():
            stop = at + len(tensor.memory())
            self._parts.append((name, tensor.datatype, tensor.shape, slice(at, stop)))
            at = stop
        self._size = at
        self._reply = reply
        self._job: Inference | None = None
        self._template: ResponseTemplate | None = None
        """Of the answers that begin with `_start`."""
        self._start = b""
        self._is_joined = True
        """Answers are so small that they are copied into one piece."""
        self._answer = answer
        """The long way to reply."""

    @property
    def peer(self) -> str:
        """The client, for the log."""
        return self._connection.peer

    @property
    def traceparent(self) -> str:
        """See HttpRequest."""
        return Http1Request(self._connection, self._head, b"", self._texts[0]).traceparent

    @staticmethod
    def suits(connection: Receiver, head: Head, texts: tuple[bytes, bytes], request: InferenceRequest) -> bool:
        """Whether the next requests on the connection may be taken like this one, just decoded and allowed, of these
        texts: none are while requests are logged, or the door closes."""
        size = sum(map(len, texts))
        return not (
            head.form.notes.coding is not None
            or head.form.is_http10
            or not head.form.keep_alive
            # Chunks have no length, and larger ones do not come in one piece.
            or not 0 < head.length <= RECEIVE_BYTES - len(texts[0])
            or head.length != len(texts[1]) + sum(len(tensor.memory()) for tensor in request.inputs.values())
            or size > PREFIX_BYTES_MAX
            or has_many(request.inputs.values())
            or connection.is_parting
            or _logger.isEnabledFor(logging.DEBUG)
        )

    def settle(self) -> None:
        """From here on the connection takes such requests by itself, for as long as the generation lasts."""
        self._connection.usual = self
        self._connection.usual_left -= 1
        self._generation.keep(self)

    def let_go(self) -> None:
        """The generation is over: the connection may begin anew."""
        self._connection.usual = None
        self._connection.usual_left = MADE_MAX

    def rest(self) -> None:
        """From time to time: lets go of the last request's tensors."""
        if self._request.inputs:
            self._request = self._request.alike()

    def submit(self, data: bytes) -> bool:
        """Takes what was received if it is the usual request and nothing more. False, and nothing is done, if not."""
        if len(data) != self._size or not data.startswith(self._prefix) or self._generation.number != self._number:
            return False
        request = self.request_in(data)
        connection = self._connection
        connection.begin(self, self._head)
        try:
            job = self.model.submit(request, self.finish)
        except Exception as problem:
            reply_problem(Http1Request(connection, self._head, b"", self._texts[0]), problem, JSON)
            return True
        if job.on_done is not None:
            self._job = job
        return True

    def request_in(self, data: bytes) -> InferenceRequest:
        """The request in `data`, which has been compared."""
        inputs = {}
        source = data if len(data) <= COPY_BYTES_MAX else memoryview(data)
        for name, datatype, shape, place in self._parts:
            inputs[name] = Tensor(name, datatype, shape, source[place])
        if sys.getrefcount(self._request) != _OWN_REFERENCES:
            self._request = self._request.alike()  # one is in flight, or somebody still looks at the last one
        request = self._request
        request.inputs = inputs
        return request

    def finish(self, job: Inference) -> None:
        """The engine's `on_done`: on the trio thread, once, must not raise."""
        self._job = None
        response = job.response
        connection = self._connection
        try:
            if (
                response is None
                or response.template is None
                or job.fault is not None
                or response.parameters
                or self._generation.number != self._number  # for one, the door closes: the answer must say so
            ):
                self._answer(Http1Request(connection, self._head, b"", self._texts[0]), self.model, self._reply, job)
                return
            if response.template is not self._template:
                self._learn(response, response.template)
            if not self._start:
                self._answer(Http1Request(connection, self._head, b"", self._texts[0]), self.model, self._reply, job)
                return
            if self._is_joined:
                connection.answer_whole(b"".join((self._start, *response.wires)))
            else:
                connection.answer_parts((self._start, *response.wires))
        except Exception as problem:
            connection.fail(problem)

    def _learn(self, response: InferenceResponse, template: ResponseTemplate) -> None:
        """Makes the start of all answers like this one, where their outputs follow as bytes."""
        self._template = template
        self._start = b""
        try:
            head, buffers, _ = encode_infer(response, self._reply, at_once=True)
        except Exception:
            return  # the long way tells what is wrong
        size = len(head) + sum(map(len, buffers))
        if buffers and buffers == list(response.wires):
            fields = ((b"Inference-Header-Content-Length", b"%d" % len(head)),)
            self._start = head_of_reply(200, BINARY, size, fields) + head
            self._is_joined = size <= JOIN_BYTES_MAX

    def abandon(self) -> None:
        """The client has left."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()


def expect_repeats(
    engine: Caller,
    request: HttpRequest,
    model: Served,
    inference: InferenceRequest,
    reply: ReplyFormat,
    answer: Callable[[HttpRequest, Served, ReplyFormat, Inference], None],
) -> None:
    """Lets the connection of `request`, just decoded and allowed, take more of these by itself."""
    if type(request) is not Http1Request:
        return
    head = request.head
    connection = request.connection
    if connection is None or not connection.usual_left or inference.parameters:
        return
    length = head.header_length
    if length is None:
        return  # no tensors follow
    text = bytes(memoryview(request.body)[: int(length)])
    texts = (request.text, text)
    if UsualInfer.suits(connection, head, texts, inference):
        UsualInfer(connection, engine, model, head, texts, inference, reply, answer).settle()
