"""Calls over gRPC, with grpclib's client. It runs on an asyncio loop of its own: nothing else does here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ....schema.config_json import config_to_json
from ....schema.tensor import Tensor
from ....schema.wire.generated.inference import (
    InferParameter,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferRequestInferInputTensor,
    ModelInferRequestInferRequestedOutputTensor,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelRepositoryParameter,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from ...answers import model_metadata, statistics
from .calls import Ask, CallFailed, Signature
from .trust import tls_problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence

    from .place import Place

_SERVICE = "/inference.GRPCInferenceService"
_Answer = TypeVar("_Answer")

_NO_GRPC = "; if this is no gRPC port, try http://"


class _Codec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        return message_type.parse(data)


class GrpcCalls:
    """See Calls. `timeout` is seconds per call, or until the next answer of a stream."""

    def __init__(self, place: Place, headers: Mapping[str, str], timeout: float, tls: ssl.SSLContext | None) -> None:
        self._place = place
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        self._timeout = timeout
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._runner = asyncio.Runner()
        self._channel: Channel | None = None

    def signature(self, model: str, version: str) -> Signature:
        """As over HTTP."""
        request = ModelMetadataRequest(name=model, version=version)
        described = self._ask("ModelMetadata", request, ModelMetadataResponse)
        try:
            answer = self._ask("ModelConfig", ModelConfigRequest(name=model, version=version), ModelConfigResponse)
            policy = answer.config.model_transaction_policy if answer.config is not None else None
        except CallFailed:
            policy = None
        return Signature(
            [(item.name, item.datatype, list(item.shape)) for item in described.inputs],
            [(item.name, item.datatype, list(item.shape)) for item in described.outputs],
            policy is not None and policy.decoupled,
        )

    def infer(self, model: str, version: str, ask: Ask) -> Sequence[Tensor]:
        """Tensors go as raw contents."""
        return _outputs(self._ask("ModelInfer", _request(model, version, ask), ModelInferResponse))

    def stream(self, model: str, version: str, ask: Ask) -> Iterator[Sequence[Tensor]]:
        answers = self._answers(_request(model, version, ask))
        while True:
            try:
                yield self._run(anext(answers))
            except StopAsyncIteration:
                return

    def index(self) -> list[dict[str, Any]]:
        answer = self._ask("RepositoryIndex", RepositoryIndexRequest(), RepositoryIndexResponse)
        return [
            {"name": item.name, "version": item.version, "state": item.state, "reason": item.reason}
            for item in answer.models
        ]

    def load(self, model: str, config: str | None) -> None:
        parameters = {} if config is None else {"config": ModelRepositoryParameter(string_param=config)}
        request = RepositoryModelLoadRequest(model_name=model, parameters=parameters)
        self._ask("RepositoryModelLoad", request, RepositoryModelLoadResponse)

    def unload(self, model: str, *, dependents: bool) -> None:
        parameters = {"unload_dependents": ModelRepositoryParameter(bool_param=dependents)}
        request = RepositoryModelUnloadRequest(model_name=model, parameters=parameters)
        self._ask("RepositoryModelUnload", request, RepositoryModelUnloadResponse)

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        request = ModelMetadataRequest(name=model, version=version)
        answer = self._ask("ModelMetadata", request, ModelMetadataResponse)
        found: dict[str, Any] = orjson.loads(model_metadata(answer))
        return found

    def configuration(self, model: str, version: str) -> dict[str, Any]:
        answer = self._ask("ModelConfig", ModelConfigRequest(name=model, version=version), ModelConfigResponse)
        found: dict[str, Any] = orjson.loads(config_to_json(answer.config)) if answer.config is not None else {}
        return found

    def statistics(self, model: str, version: str) -> list[dict[str, Any]]:
        request = ModelStatisticsRequest(name=model, version=version)
        answer = self._ask("ModelStatistics", request, ModelStatisticsResponse)
        found: list[dict[str, Any]] = orjson.loads(statistics(answer.model_stats))["model_stats"]
        return found

    def problems(self, model: str, *, live: bool) -> list[str]:
        """The protocol has no word on what it is."""
        if model:
            request = ModelReadyRequest(name=model)
            return [] if self._ask("ModelReady", request, ModelReadyResponse).ready else [f"model {model!r}"]
        if live:
            return [] if self._ask("ServerLive", ServerLiveRequest(), ServerLiveResponse).live else ["the server"]
        return [] if self._ask("ServerReady", ServerReadyRequest(), ServerReadyResponse).ready else ["the server"]

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._runner.close()

    def _ask(self, method: str, request: Any, answer_type: type[_Answer]) -> _Answer:
        async def call() -> _Answer:
            unary = UnaryUnaryMethod(self._open(), f"{_SERVICE}/{method}", type(request), answer_type)
            answer: _Answer = await unary(request, timeout=self._timeout, metadata=self._metadata)
            return answer

        return self._run(call())

    async def _answers(self, request: ModelInferRequest) -> AsyncGenerator[Sequence[Tensor]]:
        method = StreamStreamMethod(
            self._open(), f"{_SERVICE}/ModelStreamInfer", ModelInferRequest, ModelStreamInferResponse
        )
        async with method.open(metadata=self._metadata) as stream:
            await stream.send_message(request, end=True)
            while True:
                async with asyncio.timeout(self._timeout):
                    answer = await stream.recv_message()
                if answer is None:
                    return
                if answer.error_message:
                    raise CallFailed(answer.error_message)
                outputs = _outputs(answer.infer_response)
                if outputs:
                    yield outputs

    def _open(self) -> Channel:
        if self._channel is None:
            if self._place.path:
                self._channel = Channel(path=self._place.socket_path, codec=_Codec())
            else:
                self._channel = Channel(self._place.host, self._place.port, ssl=self._tls, codec=_Codec())
        return self._channel

    def _run(self, step: Coroutine[Any, Any, _Answer]) -> _Answer:
        try:
            return self._runner.run(step)
        except GRPCError as error:
            hint = _NO_GRPC if (error.message or "").startswith("Received :status") else ""
            raise CallFailed(f"{error.message or 'no message'} (gRPC {error.status.name}){hint}") from None
        except StreamTerminatedError as error:
            raise CallFailed(f"cannot talk to {self._place}: {error}{_NO_GRPC}") from None
        except (OSError, TimeoutError) as error:
            why = tls_problem(error) or str(error) or type(error).__name__
            raise CallFailed(f"cannot talk to {self._place}: {why}") from None


def _request(model: str, version: str, ask: Ask) -> ModelInferRequest:
    return ModelInferRequest(
        model_name=model,
        model_version=version,
        id=ask.id,
        parameters={name: _parameter(value) for name, value in ask.parameters.items()},
        inputs=[
            ModelInferRequestInferInputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=[int(size) for size in tensor.shape]
            )
            for tensor in ask.inputs
        ],
        outputs=[ModelInferRequestInferRequestedOutputTensor(name=name) for name in ask.outputs],
        raw_input_contents=[bytes(tensor.memory()) for tensor in ask.inputs],
    )


def _parameter(value: object) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return InferParameter(int64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    return InferParameter(string_param=str(value))


def _outputs(answer: ModelInferResponse | None) -> list[Tensor]:
    if answer is None:
        return []
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return [Tensor(item.name, item.datatype, list(item.shape), raw) for item, raw in pairs]
