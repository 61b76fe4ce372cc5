"""The gRPC door: our own HTTP/2 framing under grpclib's service definitions.

`serve_grpc(engine, settings, sockets=...)` runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..log_settings import LogSettings
from .handler.service import open_methods
from .server import GrpcServer
from .settings import GrpcSettings

if TYPE_CHECKING:
    import socket

    from ..access_log import AccessLog

__all__ = ["GrpcServer", "GrpcSettings", "serve_grpc"]


async def serve_grpc(
    engine: Any,
    settings: GrpcSettings,
    *,
    sockets: list[socket.socket],
    logs: LogSettings | None = None,
    access_log: AccessLog | None = None,
    task_status: trio.TaskStatus[GrpcServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `engine` on listening `sockets`, which it owns and closes, until cancelled or drained.

    `task_status.started` gets the server, whose `stop_accepting()` and `drain(deadline)` end it gracefully.
    `logs` is what the LogSettings RPC shows and changes, `access_log` where calls are noted.
    Cancellation cuts all connections and cancels their requests.
    """
    methods = open_methods(engine, settings, logs or LogSettings(), is_logged=access_log is not None)
    await GrpcServer(methods, settings, engine.inline, access_log).run(sockets, task_status=task_status)
