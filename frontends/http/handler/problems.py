"""What a client hears when something went wrong: a fault in its words; anything else is ours, and said so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ....engine.port.concerns import about
from ....schema.fault import Fault
from ....schema.kserve_http_reply import encode_error
from ..request.breakdown import answer_to

if TYPE_CHECKING:
    from ..request.request import HttpRequest

logger = logging.getLogger("despina.http")


def reply_fault(request: HttpRequest, fault: Fault, content_type: bytes) -> None:
    request.reply(fault.http_status, content_type, [encode_error(fault.message)])


def reply_problem(request: HttpRequest, problem: Exception, content_type: bytes) -> None:
    """A fault in the client's words; anything else is ours: the log has it whole, the client a line. Never raises."""
    try:
        if isinstance(problem, Fault):
            reply_fault(request, problem, content_type)
            return
        match = request.notes.match
        extra = about("" if match is None else match.model, told=request)
        logger.error("HTTP: %s %s failed", request.method, request.path, exc_info=problem, extra=extra)
        status, text = answer_to(problem)
        request.reply(status, content_type, [encode_error(text)])
    except Exception as second:
        request.break_off(second)
