"""The routes of the shared-memory extension: status, register and unregister, of system and of CUDA regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ....schema.base64_text import decode_base64
from ....schema.fault import InvalidArgument
from ....schema.json_text import as_string, as_unsigned, member, read_first
from ..request.request import JSON, HttpRequest
from .routes import Match, Route

if TYPE_CHECKING:
    from ....engine.port.caller import Caller

_CUDA_HANDLE_BYTES = 64
_REGION = "(?:/region/(?P<region>[^/]+))?"


def shared_memory_routes(engine: Caller) -> list[Route]:
    """Without a region's name, status and unregister speak of all regions of their kind."""
    doors = _Handlers(engine)
    system, cuda = f"/v2/systemsharedmemory{_REGION}", f"/v2/cudasharedmemory{_REGION}"
    return [
        Route(f"{system}/status", "shared-memory", {b"GET": doors.system_status}),
        Route(f"{system}/register", "shared-memory", {b"POST": doors.register_system}),
        Route(f"{system}/unregister", "shared-memory", {b"POST": doors.unregister_system}),
        Route(f"{cuda}/status", "shared-memory", {b"GET": doors.cuda_status}),
        Route(f"{cuda}/register", "shared-memory", slow_handlers={b"POST": doors.register_cuda}),
        Route(f"{cuda}/unregister", "shared-memory", slow_handlers={b"POST": doors.unregister_cuda}),
    ]


class _Handlers:
    """Each method answers one route, in the protocol's words; what it raises, the router answers."""

    def __init__(self, engine: Caller) -> None:
        self._memory = engine.shared_memory

    def system_status(self, request: HttpRequest, match: Match) -> None:
        regions = [
            {"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size}
            for region in self._memory.system_status(match.region)
        ]
        request.reply(200, JSON, [orjson.dumps(regions)])

    def register_system(self, request: HttpRequest, match: Match) -> None:
        self._memory.check_allowed()
        if not match.region:
            raise InvalidArgument("'region name' is necessary to register system shared memory region")
        wanted = read_first(request.body)
        key = as_string(_field(wanted, "key"))
        offset = as_unsigned(wanted.get("offset", 0))
        byte_size = as_unsigned(_field(wanted, "byte_size"))
        self._memory.register_system(match.region, key, offset, byte_size)
        request.reply(200, JSON)

    def unregister_system(self, request: HttpRequest, match: Match) -> None:
        self._memory.unregister_system(match.region)
        request.reply(200, JSON)

    def cuda_status(self, request: HttpRequest, match: Match) -> None:
        regions = [
            {"name": region.name, "device_id": region.device_id, "byte_size": region.byte_size}
            for region in self._memory.cuda_status(match.region)
        ]
        request.reply(200, JSON, [orjson.dumps(regions)])

    async def register_cuda(self, request: HttpRequest, match: Match) -> None:
        self._memory.check_allowed()
        if not match.region:
            raise InvalidArgument("'region name' is necessary to register cuda shared memory region")
        wanted = read_first(request.body)
        handle_text = as_string(member(_field(wanted, "raw_handle"), "b64"))
        byte_size = as_unsigned(member(wanted, "byte_size"))
        device_id = as_unsigned(member(wanted, "device_id"))
        try:
            handle = decode_base64(handle_text)
        except ValueError:
            handle = b""
        if len(handle) != _CUDA_HANDLE_BYTES:
            raise InvalidArgument("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")
        await self._memory.register_cuda(match.region, handle, device_id, byte_size)
        request.reply(200, JSON)

    async def unregister_cuda(self, request: HttpRequest, match: Match) -> None:
        await self._memory.unregister_cuda(match.region)
        request.reply(200, JSON)


def _field(wanted: Any, name: str) -> Any:
    if type(wanted) is not dict or name not in wanted:
        raise InvalidArgument(f"Shared memory register request has no '{name}' field")
    return wanted[name]
