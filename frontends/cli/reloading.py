"""SIGHUP: what the server reads, or writes, anew without a pause: its log file, and certificates and keys."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..tls import BadCertificate

if TYPE_CHECKING:
    from .draining import Server
    from .log_file import LogFile
    from .settings import ServeSettings

log = logging.getLogger("despina.serve")


class Reloading:
    """Called, it does so. `servers` are the doors that are open, by name: they come when they have opened."""

    def __init__(self, settings: ServeSettings, log_file: LogFile | None) -> None:
        self.servers: dict[str, Server] = {}
        self.has_work = log_file is not None or settings.http.tls is not None or settings.grpc.tls is not None
        """Otherwise there is nothing to read anew, whenever it is asked for."""
        self._log_file = log_file

    def __call__(self) -> None:
        """Never raises: what cannot be read stays as it was, and the log says so."""
        if self._log_file is not None:
            self._log_file.reopen()
        for name, server in self.servers.items():
            try:
                if server.reload_tls():
                    log.info("%s: read the certificate and its key anew", name)
            except BadCertificate as problem:
                log.error("%s goes on with the certificate that it has: %s", name, problem)
        if not self.has_work:
            log.info("there is no log file, certificate or key to read anew")
