"""Inference behind a service that passes bodies and their content type on, and no headers of the protocol's.

So the content type says how long the JSON before the tensors is: `<form><length>`. Bodies are never compressed,
whatever other headers say: the services have no way to say so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ....schema.fault import InvalidArgument
from ..handler.infer import InferHandler

if TYPE_CHECKING:
    import trio

    from ....engine.port.caller import Caller
    from ....engine.port.served import Inference, Served
    from ....schema.infer_head import ReplyFormat
    from ..request.request import Field, HttpRequest
    from ..settings import HttpSettings

_NUMBER: Final = re.compile(rb"[ \t]*([+-]?[0-9]{1,100})")


class FormInferHandler(InferHandler):
    """See above. `form` is the content type up to the length; `answers_in_form` says so of answers with tensors, too,
    in place of the protocol's header."""

    def __init__(
        self, engine: Caller, settings: HttpSettings, nursery: trio.Nursery, form: bytes, *, answers_in_form: bool
    ) -> None:
        super().__init__(engine, settings, nursery)
        self._form = form
        self._answers_in_form = answers_in_form

    def _answer(self, request: HttpRequest, model: Served, reply: ReplyFormat, job: Inference) -> None:
        request.notice(job)
        super()._answer(request, model, reply, job)

    def _note(self, request: HttpRequest) -> None:
        request.notes.encoding = b""

    def _header_length(self, request: HttpRequest, body_size: int) -> int | None:
        return read_header_length(request.headers.get(b"content-type", b""), self._form, body_size)

    def _binary_form(self, head_length: int) -> tuple[bytes, tuple[Field, ...]]:
        if self._answers_in_form:
            return b"%b%d" % (self._form, head_length), ()
        return super()._binary_form(head_length)


def read_header_length(content_type: bytes, form: bytes, body_size: int) -> int | None:
    """The length that a content type of that form says; None for other types. Parameters may follow the number.

    Raises InvalidArgument unless it is a number in 0..`body_size`, and for a type that has the form further behind.
    """
    before, found, text = content_type.partition(form)
    if not found:
        return None
    told = text.decode("latin-1")
    if before:
        raise InvalidArgument(
            f"expect MIME type for binary data starts with '{form.decode()}', got: {content_type.decode('latin-1')}"
        )
    number = _NUMBER.match(text)
    if number is None:
        raise InvalidArgument(f"Unable to parse inference header size, got: {told}")
    length = int(number[1])
    if not 0 <= length <= body_size:
        raise InvalidArgument(f"inference header size should be in range (0, {body_size}), got: {told}")
    return length
