"""One model call over HTTP, with the standard library and the binary tensor extension."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import orjson

from ...schema.datatype import BY_NAME
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


class CallFailed(Exception):
    """The server said no, or could not be reached; the text says which and why."""


class HttpCaller:
    """Calls one model of one server. Blocking; `timeout` is seconds per step of a call."""

    def __init__(self, place: str, model: str, version: str, timeout: float) -> None:
        self._connection = http.client.HTTPConnection(place, timeout=timeout)
        self._place = place
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
            raise CallFailed(f"cannot talk to http://{self._place}: {error or type(error).__name__}") from None
        if answer.status != 200:
            try:
                text = orjson.loads(data)["error"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                text = data.decode(errors="replace") or answer.reason
            raise CallFailed(f"{text} (HTTP {answer.status})")
        return answer.headers, data
