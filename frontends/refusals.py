"""What the log says of inference requests that were refused before they were executed, at verbose level 1."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..engine.port.concerns import about

if TYPE_CHECKING:
    from ..schema.fault import Fault

UNKNOWN_ID = "<id_unknown>"


def log_refusal(
    logger: logging.Logger, request_id: str, fault: Fault, model_name: str = "", told: object = None
) -> None:
    """In the words of the reference server. `request_id` is empty where it was not read or the request has none; `told`
    is the door's request or call."""
    if logger.isEnabledFor(logging.DEBUG):
        extra = about(model_name, request_id=request_id, told=told)
        text = "[request id: %s] Infer failed: %s"
        logger.debug(text, request_id or UNKNOWN_ID, fault.message, stacklevel=2, extra=extra)
