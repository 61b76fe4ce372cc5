"""The usual request: byte for byte the one before it on the same connection, but for its tensors.

    received = [ HTTP head | JSON head | INPUT0 | INPUT1 ]     answered = [ HTTP head | JSON head | OUTPUT0 | OUTPUT1 ]
                 `_prefix`, equal        free                               `_start`, equal         free

What the first of them said and was allowed holds for all that follow, and so does the text of the answers while the
model gives outputs of the same form. So a client that repeats itself costs two comparisons, a look whether anything has
changed since, and its tensors. Whatever is not as it was takes the long way through `InferHandler`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from ...schema.fault import Fault
from ...schema.kserve_http_reply import encode_infer
from ...schema.tensor import Tensor
from .http1_request import Http1Request
from .outlet import JOIN_BYTES_MAX
from .request import BINARY, JSON
from .routes import reply_problem
from .status import head_of_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.engine import Engine
    from ...engine.job import Job
    from ...engine.model import ModelVersion
    from ...schema.infer_head import ReplyFormat
    from ...schema.inference import InferenceRequest, InferenceResponse, ResponseTemplate
    from .connection import Connection
    from .head import Head
    from .request import HttpRequest
    from .routes import Match

_BYTES_MAX: Final = 64 * 1024
"""Of a whole request; larger ones do not come in one piece."""
_MADE_MAX: Final = 3
"""Requests taken as usual, for one head, before it is clear that the client never repeats itself."""
_OWN_REFERENCES: Final = 2
"""To an object that only its owner's attribute holds, as `sys.getrefcount` counts."""


class UsualInfer:
    """One connection's. At most one of its requests is in flight, for a connection answers in order."""

    __slots__ = (
        "_answer",
        "_changes",
        "_connection",
        "_engine",
        "_head",
        "_job",
        "_match",
        "_model",
        "_parts",
        "_prefix",
        "_registry",
        "_reply",
        "_request",
        "_size",
        "_start",
        "_template",
        "_tracer",
    )

    def __init__(
        self,
        connection: Connection,
        engine: Engine,
        match: Match,
        model: ModelVersion,
        head: Head,
        text: bytes,
        request: InferenceRequest,
        reply: ReplyFormat,
        answer: Callable[[HttpRequest, ModelVersion, ReplyFormat, Job], None],
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._tracer = engine.tracer
        self._registry = engine.registry
        self._changes = engine.registry.changes
        self._match = match
        self._model = model
        self._head = head
        self._prefix = head.raw + text
        at = len(self._prefix)
        parts = []
        for name, tensor in request.inputs.items():
            stop = at + len(tensor.memory())
            parts.append((name, tensor.datatype, tensor.shape, slice(at, stop)))
            at = stop
        self._parts = parts
        self._size = at
        self._request = request.alike()
        self._reply = reply
        self._job: Job | None = None
        self._template: ResponseTemplate | None = None
        """Of the answers that begin with `_start`."""
        self._start = b""
        self._answer = answer
        """The long way to reply."""

    @staticmethod
    def suits(head: Head, request: InferenceRequest) -> bool:
        """Whether requests like this one, just decoded and allowed, may come again. Counts those that never do."""
        notes = head.notes
        if (
            request.template is None
            or request.parameters
            or notes.coding is not None
            or notes.usual_made >= _MADE_MAX
            or head.is_http10
            or not head.keep_alive
            or not 0 < head.length <= _BYTES_MAX - len(head.raw)  # chunks have no length
        ):
            return False
        notes.usual_made += 1
        return True

    def submit(self, data: bytes) -> bool:
        """Takes what was received if it is the usual request and nothing more. False, and nothing is done, if not."""
        if len(data) != self._size or not data.startswith(self._prefix) or self._tracer.active:
            return False
        if self._registry.changes != self._changes and not self._is_current():
            return False
        inputs = {}
        for name, datatype, shape, place in self._parts:
            inputs[name] = Tensor(name, datatype, shape, data[place])
        if sys.getrefcount(self._request) != _OWN_REFERENCES:
            self._request = self._request.alike()  # somebody still looks at the last one
        request = self._request
        request.inputs = inputs
        connection = self._connection
        connection.begin(self, self._head)
        try:
            job = self._model.submit(request, self.finish)
        except Exception as problem:
            reply_problem(Http1Request(connection, self._head, b""), problem, JSON)
            return True
        if job.on_done is not None:
            self._job = job
        return True

    def _is_current(self) -> bool:
        """Models were loaded or unloaded: is this one what its name still means?"""
        try:
            model = self._engine.model(self._match.model, self._match.version())
        except Fault:
            return False
        if model is not self._model:
            self._head.notes.usual_made -= 1  # no fault of the client's
            return False
        self._changes = self._registry.changes
        return True

    def finish(self, job: Job) -> None:
        """The engine's `on_done`: on the trio thread, once, must not raise."""
        self._job = None
        response = job.response
        connection = self._connection
        if (
            response is None
            or response.template is None
            or job.fault is not None
            or response.parameters
            or connection.is_draining
        ):
            self._answer(Http1Request(connection, self._head, b""), self._model, self._reply, job)
            return
        if response.template is not self._template:
            self._learn(response, response.template)
        if not self._start:
            self._answer(Http1Request(connection, self._head, b""), self._model, self._reply, job)
            return
        connection.answer_whole(b"".join((self._start, *response.wires)))

    def _learn(self, response: InferenceResponse, template: ResponseTemplate) -> None:
        """Makes the start of all answers like this one, where their outputs follow as bytes and are not large."""
        self._template = template
        self._start = b""
        try:
            head, buffers, _ = encode_infer(response, self._reply)
        except Exception:
            return  # the long way tells what is wrong
        size = len(head) + sum(map(len, buffers))
        if buffers and buffers == list(response.wires):
            fields = ((b"Inference-Header-Content-Length", b"%d" % len(head)),)
            start = head_of_reply(200, BINARY, size, fields) + head
            if len(start) + size <= JOIN_BYTES_MAX:
                self._start = start

    def rest(self) -> None:
        """From time to time: lets go of the last request's tensors."""
        if self._request.inputs:
            self._request = self._request.alike()

    def abandon(self) -> None:
        """The client has left."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
