"""What a verbose log says of each request: its method, as the reference server numbers them, and its path."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ....engine.port.concerns import about

if TYPE_CHECKING:
    from .request import HttpRequest

logger = logging.getLogger("despina.http")

_METHOD_NUMBERS: Final = {
    name: number
    for number, name in enumerate(
        b"GET HEAD POST PUT DELETE MKCOL COPY MOVE OPTIONS PROPFIND PROPPATCH LOCK UNLOCK TRACE CONNECT PATCH".split()
    )
}


class Verbosity:
    """Whether requests are logged. Asking the logger is a twentieth of a health check: once a pass is enough."""

    def __init__(self) -> None:
        self.is_high = False

    def look(self) -> None:
        """Asks the logger."""
        self.is_high = logger.isEnabledFor(logging.DEBUG)


VERBOSITY: Final = Verbosity()
"""As of the last pass over connections."""


def log_request(request: HttpRequest) -> None:
    """Says that it came."""
    number = _METHOD_NUMBERS.get(request.method, len(_METHOD_NUMBERS))
    path = request.path.decode("utf-8", "replace")
    logger.debug("HTTP request: %d %s", number, path, extra=about(told=request))
