"""One model call over HTTP, with the standard library and the binary tensor extension."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import orjson

from ...schema.datatype import BY_NAME
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class CallFailed(Exception):
    """The server said no, or could not be reached; the text says which and why."""


_SETTINGS: Final = "\x04"
"""The type of the frame with which every HTTP/2 server begins; it stands behind three bytes of length."""
_ALERT: Final = "\x15"
"""With which a TLS server answers what is no TLS."""


class HttpCaller:
    """Calls one model of one server. Blocking; `timeout` is seconds per step of a call. With `tls` over HTTPS."""

    def __init__(self, place: str, model: str, version: str, timeout: float, tls: ssl.SSLContext | None = None) -> None:
        if tls is None:
            self._connection = http.client.HTTPConnection(place, timeout=timeout)
        else:
            self._connection = http.client.HTTPSConnection(place, timeout=timeout, context=tls)
        self._server = f"{'https' if tls else 'http'}://{place}"
        self._path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")

    def signature(self) -> list[tuple[str, str, list[int]]]:
        """Name, datatype and shape of each input of the model."""
        answer = orjson.loads(self._ask("GET", self._path)[1])
        return [(item["name"], item["datatype"], list(item["shape"])) for item in answer["inputs"]]

    def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Sends one request, tensors in binary."""
        head: dict[str, Any] = {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": list(tensor.shape),
                    "parameters": {"binary_data_size": len(tensor.memory())},
                }
                for tensor in inputs
            ],
            "parameters": {"binary_data_output": True},
        }
        if outputs:
            head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        json = orjson.dumps(head)
        body = b"".join([json, *(tensor.memory() for tensor in inputs)])
        headers = {"Inference-Header-Content-Length": str(len(json)), "Content-Type": "application/octet-stream"}
        fields, data = self._ask("POST", f"{self._path}/infer", body, headers)
        size = int(fields.get("Inference-Header-Content-Length") or len(data))
        at = size
        found = []
        for item in orjson.loads(data[:size])["outputs"]:
            length = item.get("parameters", {}).get("binary_data_size")
            if length is None:
                array = np.array(item["data"], dtype=BY_NAME[item["datatype"]].dtype).reshape(item["shape"])
                found.append(Tensor.of(item["name"], array, item["datatype"]))
            else:
                found.append(Tensor(item["name"], item["datatype"], item["shape"], data[at : at + length]))
                at += length
        return found

    def close(self) -> None:
        self._connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        try:
            self._connection.request(method, path, body, headers or {})
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"cannot talk to {self._server}: {_why(error)}") from None
        if answer.status != 200:
            try:
                text = orjson.loads(data)["error"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                text = data.decode(errors="replace") or answer.reason
            raise CallFailed(f"{text} (HTTP {answer.status})")
        return answer.headers, data


def _why(error: Exception) -> str:
    if isinstance(error, http.client.BadStatusLine):
        begun = str(error.args[0])
        if begun[3:4] == _SETTINGS:
            return "it speaks HTTP/2 only, as a gRPC port does; try --protocol grpc, or the HTTP port"
        if begun[:1] == _ALERT:
            return "it speaks TLS; try https://"
    return tls_problem(error) or str(error) or type(error).__name__


def tls_problem(error: Exception) -> str:
    """What is wrong where two cannot agree on TLS; empty for other errors."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; --ca-file names another authority"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; leave https:// out"
    return ""
