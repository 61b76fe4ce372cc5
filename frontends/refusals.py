"""What the log says of inference requests that were refused before they were executed, at verbose level 1."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..schema.fault import Fault

UNKNOWN_ID = "<id_unknown>"


def log_refusal(logger: logging.Logger, request_id: str, fault: Fault) -> None:
    """In the words of the reference server. `request_id` is empty where it was not read or the request has none."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("[request id: %s] Infer failed: %s", request_id or UNKNOWN_ID, fault.message, stacklevel=2)
