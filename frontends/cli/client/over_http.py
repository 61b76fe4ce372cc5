"""Calls over HTTP, with the standard library and the binary tensor extension."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import orjson

from ....schema.datatype import BY_NAME
from ....schema.tensor import Tensor
from .calls import Ask, CallFailed, Signature
from .trust import tls_problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

    from .place import Place

_SETTINGS: Final = "\x04"
"""The type of the frame with which every HTTP/2 server begins; it stands behind three bytes of length."""
_ALERT: Final = "\x15"
"""With which a TLS server answers what is no TLS."""


class HttpCalls:
    """See Calls. `timeout` is seconds per step of a call."""

    def __init__(self, place: Place, headers: Mapping[str, str], timeout: float, tls: ssl.SSLContext | None) -> None:
        self._place = place
        self._headers = headers
        self._connection: http.client.HTTPConnection
        if place.path:
            self._connection = _UnixConnection(place.socket_path, timeout)
        elif tls is not None:
            self._connection = http.client.HTTPSConnection(place.authority, timeout=timeout, context=tls)
        else:
            self._connection = http.client.HTTPConnection(place.authority, timeout=timeout)

    def signature(self, model: str, version: str) -> Signature:
        """Whether it is decoupled stands in the configuration, which servers need not have."""
        described = self.metadata(model, version)
        try:
            policy = self.configuration(model, version).get("model_transaction_policy") or {}
        except CallFailed:
            policy = {}
        return Signature(
            _tensors(described.get("inputs")), _tensors(described.get("outputs")), bool(policy.get("decoupled"))
        )

    def infer(self, model: str, version: str, ask: Ask) -> Sequence[Tensor]:
        """Tensors go in binary."""
        head: dict[str, Any] = {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": list(tensor.shape),
                    "parameters": {"binary_data_size": len(tensor.memory())},
                }
                for tensor in ask.inputs
            ],
            "parameters": {**ask.parameters, "binary_data_output": True},
        }
        if ask.id:
            head["id"] = ask.id
        if ask.outputs:
            head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in ask.outputs]
        json = orjson.dumps(head)
        body = b"".join([json, *(tensor.memory() for tensor in ask.inputs)])
        headers = {"Inference-Header-Content-Length": str(len(json)), "Content-Type": "application/octet-stream"}
        fields, data = self._ask("POST", f"{_path(model, version)}/infer", body, headers)
        size = int(fields.get("Inference-Header-Content-Length") or len(data))
        at = size
        found = []
        for item in _json(data[:size])["outputs"]:
            length = item.get("parameters", {}).get("binary_data_size")
            if length is None:
                array = np.array(item["data"], dtype=BY_NAME[item["datatype"]].dtype).reshape(item["shape"])
                found.append(Tensor.of(item["name"], array, item["datatype"]))
            else:
                found.append(Tensor(item["name"], item["datatype"], item["shape"], data[at : at + length]))
                at += length
        return found

    def stream(self, model: str, version: str, ask: Ask) -> Iterator[Sequence[Tensor]]:
        """By the generate extension: elements without shapes, one server-sent event per answer."""
        types = {name: datatype for name, datatype, _ in self.signature(model, version).outputs}
        asked: dict[str, Any] = {**ask.parameters, **({"id": ask.id} if ask.id else {})}
        for tensor in ask.inputs:
            items = _json_items(tensor)
            asked[tensor.name] = items[0] if len(items) == 1 else items
        path = f"{_path(model, version)}/generate_stream"
        answer = self._open("POST", path, orjson.dumps(asked), {"Content-Type": "application/json"})
        if answer.status != 200:
            raise _refused(answer, answer.read())
        for line in _lines(answer, self._place):
            if line.startswith(b"data:"):
                yield _event(line[5:], types, ask.outputs)

    def index(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = _json(self._ask("POST", "/v2/repository/index", b"{}")[1])
        return found

    def load(self, model: str, config: str | None) -> None:
        body = {"parameters": {"config": config}} if config is not None else {}
        self._ask("POST", f"/v2/repository/models/{quote(model, safe='')}/load", orjson.dumps(body))

    def unload(self, model: str, *, dependents: bool) -> None:
        body = {"parameters": {"unload_dependents": dependents}}
        self._ask("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", orjson.dumps(body))

    def metadata(self, model: str, version: str) -> dict[str, Any]:
        found: dict[str, Any] = _json(self._ask("GET", _path(model, version))[1])
        return found

    def configuration(self, model: str, version: str) -> dict[str, Any]:
        found: dict[str, Any] = _json(self._ask("GET", f"{_path(model, version)}/config")[1])
        return found

    def statistics(self, model: str, version: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = _json(self._ask("GET", f"{_path(model, version)}/stats")[1])["model_stats"]
        return found

    def problems(self, model: str, *, live: bool) -> list[str]:
        """Our own server says which parts are not ready; of others only the status is known."""
        path = f"{_path(model, '')}/ready" if model else f"/v2/health/{'live' if live else 'ready'}"
        answer = self._open("GET", path, None, {})
        data = answer.read()
        if answer.status == 200:
            return []
        what = f"model {model!r}" if model else "the server"
        try:
            said = orjson.loads(data)
            return [str(part) for part in said["not_ready"]] if "not_ready" in said else [f"{what}: {said['error']}"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return [f"{what} (HTTP {answer.status})"]

    def close(self) -> None:
        self._connection.close()

    def _open(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, path, body, {**self._headers, **headers})
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"cannot talk to {self._place}: {_why(error, self._place)}") from None

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        answer = self._open(method, path, body, headers or {})
        try:
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"cannot talk to {self._place}: {_why(error, self._place)}") from None
        if answer.status != 200:
            raise _refused(answer, data)
        return answer.headers, data


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _path(model: str, version: str) -> str:
    return f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise CallFailed(f"no answer of an inference server: {data[:80]!r}") from None


def _tensors(listed: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str, list[int]]]:
    return [(item["name"], item["datatype"], [int(size) for size in item["shape"]]) for item in listed or ()]


def _lines(answer: http.client.HTTPResponse, place: Place) -> Iterator[bytes]:
    try:
        yield from answer
    except (OSError, http.client.HTTPException) as error:
        raise CallFailed(f"the stream of {place} broke: {_why(error, place)}") from None


def _json_items(tensor: Tensor) -> list[Any]:
    """Raises CallFailed for what JSON cannot carry."""
    array = tensor.numpy().ravel()
    if tensor.datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if array.dtype != object:
        return list(array.tolist())
    try:
        return [item.decode() for item in array]
    except UnicodeDecodeError:
        raise CallFailed(
            f"input '{tensor.name}' has bytes that are no text: over HTTP a decoupled model is asked in JSON; "
            "try grpc://"
        ) from None


def _event(data: bytes, types: Mapping[str, str], wanted: Sequence[str]) -> list[Tensor]:
    fields = _json(data)
    if "error" in fields:
        raise CallFailed(str(fields["error"]))
    found = []
    for name, value in fields.items():
        if name in types and (not wanted or name in wanted):
            items = value if isinstance(value, list) else [value]
            if types[name] == "BYTES":
                array = np.array([str(item).encode() for item in items], dtype=object)
            else:
                array = np.array(items, dtype=BY_NAME[types[name]].dtype)
            found.append(Tensor.of(name, array, types[name]))
    return found


def _refused(answer: http.client.HTTPResponse, data: bytes) -> CallFailed:
    try:
        text = orjson.loads(data)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = data.decode(errors="replace") or answer.reason
    return CallFailed(f"{text} (HTTP {answer.status})")


def _why(error: Exception, place: Place) -> str:
    if isinstance(error, http.client.BadStatusLine):
        begun = str(error.args[0])
        if begun[3:4] == _SETTINGS:
            there = f"grpc+unix:{place.path}" if place.path else f"grpc://{place.authority}"
            return f"it speaks HTTP/2 only, as a gRPC port does; try --url {there}, or the HTTP port"
        if begun[:1] == _ALERT:
            return "it speaks TLS; try https://"
    return tls_problem(error) or str(error) or type(error).__name__
