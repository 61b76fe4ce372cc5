"""Server reflection: which services the port has and how their messages look, for tools that know no .proto file.

Served as `grpc.reflection.v1` and as `grpc.reflection.v1alpha`, which is the same on the wire under another name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import betterproto2
from grpclib.const import Status

from ....schema.wire.descriptors import Descriptors, protocol_descriptors
from ....schema.wire.generated.grpc.reflection import v1 as pb
from ..request.tasks import methods_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from ..request.port import Method

_ALPHA = "v1alpha"


def reflection_methods(paths: Iterable[str]) -> dict[str, Method]:
    """Path -> method of both versions. They tell of the services that `paths` belong to, and of themselves."""
    paths = list(paths)
    service = ReflectionService(protocol_descriptors())
    methods: dict[str, Method] = {}
    for path, method in methods_of(service).items():
        methods[path] = methods[path.replace(".v1.", f".{_ALPHA}.")] = method
    service.names = sorted({path.split("/")[1] for path in (*paths, *methods)})
    return methods


class ReflectionService(pb.ServerReflectionBase):
    """Answers each request of a stream before it takes the next one. A question without an answer gets an
    `error_response`; the stream goes on."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self.names: list[str] = []
        """Full names of the services that are served."""

    async def server_reflection_info(
        self, messages: AsyncIterator[pb.ServerReflectionRequest]
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        async for request in messages:
            response = self._answer(request)
            response.valid_host = request.host
            response.original_request = request
            yield response

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        known = self._descriptors
        kind: str
        value: Any
        kind, value = betterproto2.which_one_of(request, "message_request")
        if kind == "file_by_filename":
            file = known.files.get(value)
            return _not_found(f"file '{value}' is not known") if file is None else self._described(file.name)
        if kind == "file_containing_symbol":
            file = known.by_symbol.get(value)
            return _not_found(f"symbol '{value}' is not known") if file is None else self._described(file.name)
        if kind == "file_containing_extension":
            wanted: pb.ExtensionRequest = value
            return _not_found(f"'{wanted.containing_type}' has no extension {wanted.extension_number}")
        if kind == "all_extension_numbers_of_type":
            if value not in known.messages:
                return _not_found(f"message '{value}' is not known")
            none = pb.ExtensionNumberResponse(base_type_name=value)
            return pb.ServerReflectionResponse(all_extension_numbers_response=none)
        if kind == "list_services":
            services = pb.ListServiceResponse(service=[pb.ServiceResponse(name=name) for name in self.names])
            return pb.ServerReflectionResponse(list_services_response=services)
        return _error(Status.INVALID_ARGUMENT, "the request asks for nothing that is known here")

    def _described(self, name: str) -> pb.ServerReflectionResponse:
        """A file and those that it imports, which clients would ask for next."""
        files = self._descriptors.with_dependencies(self._descriptors.files[name])
        described = pb.FileDescriptorResponse(file_descriptor_proto=[file.content for file in files])
        return pb.ServerReflectionResponse(file_descriptor_response=described)


def _not_found(text: str) -> pb.ServerReflectionResponse:
    return _error(Status.NOT_FOUND, text)


def _error(status: Status, text: str) -> pb.ServerReflectionResponse:
    error = pb.ErrorResponse(error_code=status.value, error_message=text)
    return pb.ServerReflectionResponse(error_response=error)
