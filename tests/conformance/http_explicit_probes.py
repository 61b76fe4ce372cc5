"""Loading and unloading over HTTP, in explicit mode over `models_explicit/`; the order is the story."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tests.conformance.http_exchange import HttpProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each cannot be loaded, for a reason of its own.
BROKEN = [
    "bad_enum",
    "bad_field",
    "bad_text",
    "bare",
    "batching_without_batch",
    "broken_autocomplete",
    "broken_import",
    "broken_initialize",
    "broken_syntax",
    "gpu_instance",
    "mismatched_name",
    "negative_batch",
    "no_backend",
    "no_class",
    "no_datatype",
    "no_dims",
    "no_execute",
    "no_input",
    "no_version",
    "preferred_too_big",
    "reshape_mismatch",
    "twice_input",
    "unknown_backend",
    "unnamed_input",
    "zero_dim",
    "nope",
]
CONFIG = {
    "name": "plain",
    "backend": "python",
    "max_batch_size": 0,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [2]}],
    "instance_group": [{"kind": "KIND_CPU", "count": 1}],
}
MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", array * 5)]) for array in inputs]
"""


def http_explicit_probes() -> list[HttpProbe]:
    """Every probe, in the order in which it has to be asked."""
    return list(numbered(story()))


def numbered(probes: Iterator[HttpProbe]) -> Iterator[HttpProbe]:
    """Unique names: a question may be asked again after something happened."""
    for index, probe in enumerate(probes):
        yield HttpProbe(f"{index:03d} {probe.name}", probe.method, probe.path, probe.body, probe.headers)


def load(model: str, parameters: Any = None, *, text: str | None = None) -> HttpProbe:
    """A load call. `text` is a body sent as it is."""
    body = text if text is not None else json.dumps({} if parameters is None else {"parameters": parameters})
    return HttpProbe(f"load {model} {body[:60]}", "POST", f"/v2/repository/models/{model}/load", body.encode())


def unload(model: str, text: str = "") -> HttpProbe:
    """An unload call."""
    return HttpProbe(f"unload {model} {text}", "POST", f"/v2/repository/models/{model}/unload", text.encode())


def infer(model: str, version: str = "") -> HttpProbe:
    """One good request to the models of this repository."""
    request = {"inputs": [{"name": "X", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}
    place = f"/versions/{version}" if version else ""
    return HttpProbe(
        f"infer {model} {version}", "POST", f"/v2/models/{model}{place}/infer", json.dumps(request).encode()
    )


def get(path: str) -> HttpProbe:
    """A GET."""
    return HttpProbe(f"get {path}", path=path)


def index(text: str = "") -> HttpProbe:
    """The repository index."""
    return HttpProbe(f"index {text}", "POST", "/v2/repository/index", text.encode())


def story() -> Iterator[HttpProbe]:
    """Nothing is loaded; then models come, go, fail and come back."""
    yield get("/v2/health/ready")
    yield index()
    yield index('{"ready":true}')
    yield get("/v2/models/plain")
    yield get("/v2/models/plain/ready")
    yield get("/v2/models/plain/config")
    yield get("/v2/models/plain/stats")
    yield get("/v2/models/stats")
    yield infer("plain")
    yield load("plain", text="")
    yield get("/v2/models/plain")
    yield get("/v2/models/plain/ready")
    yield infer("plain")
    yield load("plain")
    yield get("/v2/models/plain/stats")
    yield index('{"ready":true}')
    yield from bad_loads()
    yield from overrides()
    yield from several_versions()
    yield load("autocomplete")
    yield get("/v2/models/autocomplete")
    yield get("/v2/models/autocomplete/config")
    yield load("broken_finalize")
    yield infer("broken_finalize")
    yield get("/v2/health/ready")
    for model in BROKEN:
        yield load(model)
        yield get(f"/v2/models/{model}")
        yield get(f"/v2/models/{model}/ready")
    yield get("/v2/health/ready")
    yield index()
    yield index('{"ready":true}')
    yield infer("broken_initialize")
    yield unload("broken_initialize")
    yield unload("nope")
    yield unload("plain", "{")
    yield unload("plain", "[]")
    yield unload("other", '{"parameters":{"unload_dependents":true}}')
    yield unload("other", '{"parameters":{"unload_dependents":"yes"}}')
    yield unload("other", '{"parameters":{"other":1}}')
    yield unload("other", '{"parameters":[]}')
    yield HttpProbe("named repository load", "POST", "/v2/repository/main/models/plain/load", b"{}")
    yield HttpProbe("named repository unload", "POST", "/v2/repository/main/models/plain/unload", b"{}")


def bad_loads() -> Iterator[HttpProbe]:
    """Load bodies that are refused; `plain` keeps serving."""
    for text in (
        "{",
        "[]",
        "1",
        "null",
        '{"parameters":[]}',
        '{"parameters":null}',
        '{"parameters":{}}',
        '{"other":1}',
    ):
        yield load("plain", text=text)
    yield load("plain", {"unknown": "text"})
    yield load("plain", {"unknown": 1})
    yield load("plain", {"config": 1})
    yield load("plain", {"config": {}})
    yield load("plain", {"config": ""})
    yield load("plain", {"config": "{"})
    yield load("plain", {"config": "[]"})
    yield load("plain", {"config": '{"no_such_field": 1}'})
    yield load("plain", {"config": '{"backend": "imaginary"}'})
    yield load("plain", {"file:1/model.py": "not base64!"})
    yield load("plain", {"file:1/model.py": encoded(MODEL)})
    yield load("..")
    yield load("%2e%2e")
    yield infer("plain")
    yield get("/v2/models/plain/config")


def overrides() -> Iterator[HttpProbe]:
    """A configuration, and files, that come with the request."""
    batched = {**CONFIG, "max_batch_size": 4}
    yield load("plain", {"config": json.dumps(batched)})
    yield get("/v2/models/plain")
    nameless = {key: value for key, value in CONFIG.items() if key != "name"}
    yield load("plain", {"config": json.dumps(nameless)})
    yield get("/v2/models/plain")
    yield load("plain", {"config": json.dumps({**CONFIG, "name": "different"})})
    yield load("plain", {"config": json.dumps(CONFIG), "file:1/model.py": encoded(MODEL)})
    yield infer("plain")
    yield load("plain", {"config": json.dumps(CONFIG), "file:7/model.py": encoded(MODEL)})
    yield get("/v2/models/plain")
    yield infer("plain")
    yield load("plain", {"config": json.dumps(CONFIG), "file:../model.py": encoded(MODEL)})
    yield load("plain", {"config": json.dumps(CONFIG), "file:": encoded(MODEL)})
    yield load("plain")
    yield infer("plain")
    yield load("fresh", {"config": json.dumps({**CONFIG, "name": "fresh"}), "file:1/model.py": encoded(MODEL)})
    yield infer("fresh")
    yield index('{"ready":true}')


def several_versions() -> Iterator[HttpProbe]:
    """A model with versions 1, 2, 10 and a folder that is no version."""
    yield load("versions")
    yield get("/v2/models/versions")
    yield get("/v2/models/versions/versions/2")
    yield infer("versions")
    yield infer("versions", "2")
    yield infer("versions", "3")
    yield get("/v2/models/versions/stats")


def encoded(text: str) -> str:
    """A file's content as the protocol carries it over HTTP."""
    return base64.b64encode(text.encode()).decode()
