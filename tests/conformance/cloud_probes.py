"""The questions to the doors of Vertex AI and SageMaker, and how both servers are started for them."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tests import in_process
from tests.conformance.comparison import settled
from tests.conformance.http_exchange import HttpProbe, http_answer
from tests.conformance.http_probes import addsub, tensor
from tests.conformance.servers import HERE, free_ports, running_despina, running_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.conformance.servers import Server

REDIRECT = "X-Vertex-Ai-Triton-Redirect"
TARGET = "X-Amzn-SageMaker-Target-Model"
VERTEX_AI = "application/vnd.vertex-ai-triton.binary+json;json-header-size="
SAGEMAKER = "application/vnd.sagemaker-triton.binary+json;json-header-size="
ROUTES = {"AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict"}
ROW = np.arange(16, dtype="<i4")
WAIT_S = 20.0


@attrs.frozen
class CloudSuite:
    """A conversation with one of these doors. `<port>` in the options is its port, `<repository>` in a question the
    place of the models."""

    name: str
    build: Callable[[Path], None]
    """Lays out the models."""
    options: tuple[str, ...]
    environment: Mapping[str, str]
    probes: Callable[[], list[HttpProbe]]

    @property
    def golden(self) -> Path:
        """Where the reference server's answers are recorded."""
        return HERE / "golden" / f"{self.name}.json"

    def answers(self, folder: Path, *, reference: bool = False) -> dict[str, Any]:
        """Every answer of a fresh server, by the probe's name."""
        with self.running(folder, reference=reference) as (server, port):
            return {
                probe.name: settled(http_answer(port, placed(probe, server.repository)), str(server.repository))
                for probe in self.probes()
            }

    @contextlib.contextmanager
    def running(
        self, folder: Path, *, reference: bool = False, more: Sequence[str] = ()
    ) -> Iterator[tuple[Server, int]]:
        """A server and the door's port."""
        models = folder / "models"
        models.mkdir()
        self.build(models)
        (port,) = free_ports(1)
        options = [option.replace("<port>", str(port)) for option in (*self.options, *more)]
        run = running_reference if reference else running_despina
        with run(models, folder, options if reference else [*options, in_process.OPTION], self.environment) as server:
            wait_until_listening(port)
            yield server, port


def wait_until_listening(port: int) -> None:
    """Until somebody accepts at a port of this machine."""
    give_up = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
        else:
            return


def placed(probe: HttpProbe, repository: Path) -> HttpProbe:
    return attrs.evolve(probe, body=probe.body and probe.body.replace(b"<repository>", str(repository).encode()))


def post(name: str, path: str, request: Any = None, *, tail: bytes = b"", **headers: str) -> HttpProbe:
    """A POST of JSON (or text, sent as it is) and bytes behind it; `_` in a header's name is `-`."""
    text = request if isinstance(request, str) else "" if request is None else json.dumps(request)
    fields = tuple((key.replace("_", "-"), value) for key, value in headers.items())
    return HttpProbe(name, "POST", path, text.encode() + tail, fields)


def redirected(target: str, request: Any = None, *, tail: bytes = b"", **headers: str) -> HttpProbe:
    return post(f"redirect {target}", "/predict", request, tail=tail, **{REDIRECT: target}, **headers)


def binary(**changes: Any) -> tuple[dict[str, Any], bytes]:
    """The JSON of an addition of two rows that follow it, and the rows."""
    inputs = [
        {"name": name, "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": ROW.nbytes}}
        for name in ("INPUT0", "INPUT1")
    ]
    return {"inputs": inputs, **changes}, ROW.tobytes() * 2


def form_probes(path: str, form: str) -> Iterator[HttpProbe]:
    """Bodies of every form, and what content types say of them."""
    size = len(json.dumps(addsub()))
    head, tail = binary()
    mixed = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}]
    yield post("JSON", path, addsub(), Content_Type="application/json")
    yield post("JSON without a type", path, addsub())
    yield post("JSON with an id", path, addsub(id="seven"))
    yield post("binary in", path, head, tail=tail, Content_Type=f"{form}{len(json.dumps(head))}")
    yield post("binary out", path, addsub(outputs=mixed))
    yield post("all binary out", path, addsub(parameters={"binary_data_output": True}))
    head, tail = binary(outputs=mixed)
    yield post("binary in and out", path, head, tail=tail, Content_Type=f"{form}{len(json.dumps(head))}")
    yield post("binary without its type", path, head, tail=tail, Content_Type="application/octet-stream")
    yield post("classes", path, addsub(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 2}}]))
    for text in (size, f"{size}; charset=utf-8", f" {size}", f"+{size}", size + 1, -5, 12345, 2**31, "", "x5", 0):
        yield post(f"length '{text}'", path, addsub(), Content_Type=f"{form}{text}")
    yield post("type in capitals", path, addsub(), Content_Type=f"{form.upper()}5")
    yield post("type behind another", path, addsub(), Content_Type=f"text/plain, {form}{size}")
    yield post("the protocol's header", path, addsub(), Inference_Header_Content_Length="5")
    yield post("a coding", path, addsub(), Content_Encoding="gzip")
    yield post("an unknown coding", path, addsub(), Content_Encoding="br")
    yield post("a coding for the answer", path, addsub(), Accept_Encoding="gzip")
    yield post("no JSON", path, "nonsense")
    yield post("no inputs", path, {})
    yield post("nothing", path)
    yield post("a wrong shape", path, {"inputs": [tensor("INPUT0", [1, 15], "INT32", [1])]})
    yield post("one input of two", path, {"inputs": [tensor("INPUT0", [1, 16], "INT32", ROW.tolist())]})


def other_methods(path: str) -> Iterator[HttpProbe]:
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST"):
        yield HttpProbe(f"{method} {path}", method, path, b"" if method == "POST" else None)


# --- Vertex AI

REDIRECTS = (
    "v2", "v2/", "/v2", "v3", "v2/health/live", "v2/health/ready", "v2/health/well", "v2/models", "v2/models/simple",
    "v2/models/simple/ready", "v2/models/simple/config", "v2/models/simple/versions/1", "v2/models/none",
    "v2/models/simple/versions/1/ready", "v2/models/none/ready", "v2/models/none/config", "v2/models/none/stats",
    "v2/models/simple/versions/9/infer", "v2/models/simple/generate", "v2/models/simple/generate_stream",
    "v2/models/simple/trace/setting", "v2/trace/setting", "v2/logging", "v2/systemsharedmemory/status",
    "v2/cudasharedmemory/status", "v2/systemsharedmemory/region/r/status", "v2/systemsharedmemory/unregister",
    "v2/systemsharedmemory/region/r/register", "v2/cudasharedmemory/region/r/unregister", "v2/repository/index",
    "v2/repository/models/simple/unload", "v2/repository/models/simple/load", "v2/repository/other", "nonsense", "",
    "predict", "health", "docs", "openapi.json", "metrics/", "v2/models/simple/infer?x=1",
)  # fmt: skip


def vertex_ai_probes() -> list[HttpProbe]:
    """Every probe of the door over three models, `simple` the default."""
    raw = np.arange(4, dtype="<f4").tobytes()
    return [
        *other_methods("/health"),
        *other_methods("/predict"),
        *(HttpProbe(f"GET {path}", "GET", path) for path in ("/", "/v2", "/health/", "/v2/health/ready", "/metrics")),
        HttpProbe("GET /health?x=1", "GET", "/health?x=1"),
        *form_probes("/predict", VERTEX_AI),
        *(redirected(target) for target in REDIRECTS),
        redirected("v2/models/simple/infer", addsub()),
        redirected("v2/models/simple/versions/1/infer", addsub()),
        redirected("v2/models/none/infer", addsub()),
        redirected("v2/models/identity_fp32/infer", tail=raw, Content_Type=f"{VERTEX_AI}0"),
        HttpProbe("GET redirect v2", "GET", "/predict", None, ((REDIRECT, "v2"),)),
        HttpProbe("PUT redirect v2", "PUT", "/predict", None, ((REDIRECT, "v2"),)),
        post("GET /health with a redirect", "/health", **{REDIRECT: "v2"}),
        redirected("v2/models/stats"),
        redirected("v2/models/simple/stats"),
    ]


# --- SageMaker


def sagemaker_probes() -> list[HttpProbe]:
    """Every probe of the door with one model."""
    paths = ("/", "/v2", "/v2/health/ready", "/v2/models/simple/infer", "/ping/", "/metrics", "/invocations/")
    return [
        *other_methods("/ping"),
        *other_methods("/invocations"),
        *(HttpProbe(f"GET {path}", "GET", path) for path in paths),
        *(post(f"POST {path}", path, addsub()) for path in paths),
        *form_probes("/invocations", SAGEMAKER),
        post("load where models are not loaded by command", "/models", {"model_name": "m", "url": "<repository>"}),
    ]


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_INT32 dims: [ 16 ] } ]
output [ { name: "Y" data_type: TYPE_INT32 dims: [ 16 ] } ]
ensemble_scheduling { step [ {
  model_name: "simple" model_version: -1
  input_map { key: "INPUT0" value: "X" } input_map { key: "INPUT1" value: "X" }
  output_map { key: "OUTPUT0" value: "Y" }
} ] }
"""


def archives(folder: Path) -> None:
    """Unpacked as SageMaker does: <hash>/model."""
    for name in ("one", "two", "failing", "together"):
        nameless("simple", folder / name / "model" / "simple")
    failing = folder / "failing" / "model" / "simple" / "config.pbtxt"
    failing.write_text(failing.read_text() + "garbage: 1\n")
    ensemble = folder / "together" / "model" / "adding"
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "config.pbtxt").write_text(ENSEMBLE)
    nameless("identity_fp32", folder / "three" / "model" / "whatever")
    (folder / "empty" / "model").mkdir(parents=True)


def nameless(model: str, place: Path) -> None:
    """A copy whose configuration does not say its name: it has the name that it is loaded by."""
    shutil.copytree(HERE / "models" / model, place, ignore=shutil.ignore_patterns("__pycache__"))
    config = place / "config.pbtxt"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith("name:")))


def load(name: str, model: Any, url: Any, **headers: str) -> HttpProbe:
    return post(name, "/models", {"model_name": model, "url": url}, **headers)


def many_models_probes() -> list[HttpProbe]:
    """The story of loads and unloads: the order matters."""
    return [
        HttpProbe("nothing is loaded", "GET", "/models"),
        HttpProbe("show what is not loaded", "GET", "/models/a"),
        HttpProbe("unload what is not loaded", "DELETE", "/models/a"),
        post("invoke what is not loaded", "/models/a/invoke", addsub()),
        load("load one", "a", "<repository>/one/model"),
        load("load it again", "a", "<repository>/one/model"),
        load("load another of that name", "a", "<repository>/two/model"),
        load("load one archive twice", "b", "<repository>/one/model"),
        load("load what fails", "f", "<repository>/failing/model"),
        load("load what fails again", "f", "<repository>/failing/model"),
        load("load what is not there", "n", "<repository>/nowhere/model"),
        load("load without a place", "n", ""),
        load("load nothing", "n", "<repository>/empty/model"),
        post("load without a word", "/models"),
        post("load without members", "/models", {}),
        load("load three", "c", "<repository>/three/model", **{TARGET: "three.tar.gz"}),
        load("load an ensemble", "e", "<repository>/together/model"),
        HttpProbe("show one", "GET", "/models/a"),
        HttpProbe("show three", "GET", "/models/c"),
        HttpProbe("show an ensemble", "GET", "/models/e"),
        *(attrs.evolve(probe, name=f"one: {probe.name}") for probe in form_probes("/models/a/invoke", SAGEMAKER)),
        post(
            "invoke three",
            "/models/c/invoke",
            {"inputs": [tensor("INPUT0", [1, 2], "FP32", [1, 2])]},
            **{TARGET: "three.tar.gz"},
        ),
        post("invoke raw", "/models/c/invoke", tail=bytes(8), Content_Type=f"{SAGEMAKER}0", **{TARGET: "three.tar.gz"}),
        post("invoke an ensemble", "/models/e/invoke", {"inputs": [tensor("X", [1, 16], "INT32", ROW.tolist())]}),
        post("invoke by a wrong path", "/models/a/invocations", addsub()),
        post("invoke without a name", "/models//invoke", addsub()),
        HttpProbe("a slash too many", "GET", "/models/a/"),
        HttpProbe("PUT", "PUT", "/models/a"),
        HttpProbe("PUT the list", "PUT", "/models"),
        HttpProbe("DELETE the list", "DELETE", "/models"),
        HttpProbe("GET an invocation", "GET", "/models/a/invoke"),
        HttpProbe("unload three", "DELETE", "/models/c", None, ((TARGET, "three.tar.gz"),)),
        HttpProbe("list two", "GET", "/models/"),
        HttpProbe("unload an ensemble", "DELETE", "/models/e"),
        HttpProbe("list one", "GET", "/models"),
        HttpProbe("unload one", "DELETE", "/models/a"),
        post("invoke what has gone", "/models/a/invoke", addsub()),
        HttpProbe("nothing is left", "GET", "/models"),
        load("load one again", "z", "<repository>/one/model"),
        post("invoke one again", "/models/z/invoke", addsub()),
    ]


def three_models(folder: Path) -> None:
    for name in ("simple", "identity_fp32", "versioned"):
        shutil.copytree(HERE / "models" / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


VERTEX_AI_SUITE = CloudSuite(
    "cloud_vertex_ai",
    three_models,
    ("--allow-vertex-ai=true", "--vertex-ai-port=<port>", "--vertex-ai-default-model=simple"),
    ROUTES,
    vertex_ai_probes,
)
SAGEMAKER_SUITE = CloudSuite(
    "cloud_sagemaker",
    three_models,
    ("--allow-sagemaker=true", "--sagemaker-port=<port>"),
    {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "simple"},
    sagemaker_probes,
)
MANY_MODELS_SUITE = CloudSuite(
    "cloud_many_models",
    archives,
    (
        "--allow-sagemaker=true",
        "--sagemaker-port=<port>",
        "--model-control-mode=explicit",
        "--model-namespacing=true",
    ),
    {},
    many_models_probes,
)
CLOUD_SUITES = (VERTEX_AI_SUITE, SAGEMAKER_SUITE, MANY_MODELS_SUITE)
