"""What the generated services are built on. betterproto2's own base class brings grpclib's server, HTTP/2 and asyncio
with it, which this package has no use for: 60 modules and 3 MB in every process that serves."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class ServiceBase:
    """A service's methods by path: `__mapping__`, which generated classes define."""

    async def _call_rpc_handler_server_stream(self, handler: Callable[[Any], Any], stream: Any, request: Any) -> None:
        """Sends all that `handler` yields. One that is no generator yet, as it is not implemented, sends nothing."""
        answers = handler(request)
        if not isinstance(answers, AsyncIterable):
            answers.close()
            return
        async for answer in answers:
            await stream.send_message(answer)
