"""One model call over gRPC, with grpclib's client. It runs on an asyncio loop of its own: nothing else does here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError

from ...schema.tensor import Tensor
from ...schema.wire.generated.inference import (
    ModelInferRequest,
    ModelInferRequestInferInputTensor,
    ModelInferRequestInferRequestedOutputTensor,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from .infer_http import CallFailed, tls_problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

_SERVICE = "/inference.GRPCInferenceService"
_Answer = TypeVar("_Answer")

_NO_GRPC = "; if this is no gRPC port, try --protocol http"


class _Codec(CodecBase):
    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        return message_type.parse(data)


class GrpcCaller:
    """Calls one model of one server. Blocking; `timeout` is seconds per call. `tls` as for HTTP."""

    def __init__(self, place: str, model: str, version: str, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = place.rpartition(":")
        self._server = f"{'grpcs' if tls else 'grpc'}://{place}"
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._host, self._port = host.removeprefix("[").removesuffix("]"), int(port)
        self._model, self._version, self._timeout = model, version, timeout

    def signature(self) -> list[tuple[str, str, list[int]]]:
        """Name, datatype and shape of each input of the model."""
        request = ModelMetadataRequest(name=self._model, version=self._version)
        answer = self._call("ModelMetadata", request, ModelMetadataResponse)
        return [(item.name, item.datatype, list(item.shape)) for item in answer.inputs]

    def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Sends one request, tensors as raw contents."""
        request = ModelInferRequest(
            model_name=self._model,
            model_version=self._version,
            inputs=[
                ModelInferRequestInferInputTensor(
                    name=tensor.name, datatype=tensor.datatype, shape=[int(size) for size in tensor.shape]
                )
                for tensor in inputs
            ],
            outputs=[ModelInferRequestInferRequestedOutputTensor(name=name) for name in outputs],
            raw_input_contents=[bytes(tensor.memory()) for tensor in inputs],
        )
        answer = self._call("ModelInfer", request, ModelInferResponse)
        pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return [Tensor(item.name, item.datatype, list(item.shape), raw) for item, raw in pairs]

    def close(self) -> None:
        """Nothing to do: a connection lasts one call."""

    def _call(self, method: str, request: Any, answer_type: type[_Answer]) -> _Answer:
        return asyncio.run(self._call_async(method, request, answer_type))

    async def _call_async(self, method: str, request: Any, answer_type: type[_Answer]) -> _Answer:
        channel = Channel(self._host, self._port, ssl=self._tls, codec=_Codec())
        try:
            unary = UnaryUnaryMethod(channel, f"{_SERVICE}/{method}", type(request), answer_type)
            answer: _Answer = await unary(request, timeout=self._timeout)
        except GRPCError as error:
            hint = _NO_GRPC if (error.message or "").startswith("Received :status") else ""
            raise CallFailed(f"{error.message or 'no message'} (gRPC {error.status.name}){hint}") from None
        except StreamTerminatedError as error:
            raise CallFailed(f"cannot talk to {self._server}: {error}{_NO_GRPC}") from None
        except (OSError, TimeoutError) as error:
            why = tls_problem(error) or str(error) or type(error).__name__
            raise CallFailed(f"cannot talk to {self._server}: {why}") from None
        finally:
            channel.close()
        return answer
