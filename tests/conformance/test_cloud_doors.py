"""The doors of Vertex AI and SageMaker, beside the reference server's, and before the clients that they have there."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.conformance.cloud_probes import (
    CLOUD_SUITES,
    MANY_MODELS_SUITE,
    REDIRECT,
    ROUTES,
    ROW,
    SAGEMAKER,
    SAGEMAKER_SUITE,
    TARGET,
    VERTEX_AI,
    VERTEX_AI_SUITE,
    binary,
    nameless,
    three_models,
    wait_until_listening,
)
from tests.conformance.comparison import canonical
from tests.conformance.http_probes import addsub
from tests.conformance.known_differences import CLOUD_DIFFERENCES
from tests.conformance.servers import asked_again, copied, free_ports, reference_script, stop
from tests.in_process import OPTION


@pytest.mark.parametrize("suite", CLOUD_SUITES, ids=[suite.name for suite in CLOUD_SUITES])
def test_answers_equal_the_reference_servers(suite, tmp_path):
    """Goal: same status, same members, same words, but for the table of known differences, all of which exist."""
    golden = json.loads(suite.golden.read_text())
    answers = suite.answers(tmp_path)
    differing = {name for name, answer in golden.items() if canonical(answer) != canonical(answers[name])}
    assert differing == {name for of, name in CLOUD_DIFFERENCES if of == suite.name}


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
@pytest.mark.parametrize("suite", CLOUD_SUITES, ids=[suite.name for suite in CLOUD_SUITES])
def test_records_are_what_the_reference_server_says(suite, tmp_path):
    """Goal: the recorded answers are the reference server's. Method: ask it again."""
    golden = {name: canonical(answer) for name, answer in json.loads(suite.golden.read_text()).items()}

    def ask(folder):
        return {name: canonical(answer) for name, answer in suite.answers(folder, reference=True).items()}

    said = asked_again(ask, golden, tmp_path)
    assert {name for name, answer in golden.items() if said[name] != answer} == set()


class Caller:
    """One connection that is kept, as the services' proxies keep theirs."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body of the answer; `_` in a header's name is `-`."""
        self._connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def close(self):
        self._connection.close()


def row_inputs(client_binary):
    """The two inputs, made by Triton's client."""
    inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    inputs[0].set_data_from_numpy(ROW.reshape(1, 16), binary_data=client_binary)
    inputs[1].set_data_from_numpy(ROW.reshape(1, 16), binary_data=False)
    return inputs


@pytest.fixture(scope="module")
def vertex(tmp_path_factory):
    """A caller of a running Vertex AI door."""
    restrict = "--http-restricted-api=model-config,shared-memory:X-Key=secret"
    with VERTEX_AI_SUITE.running(tmp_path_factory.mktemp("vertex"), more=[restrict]) as (_, port):
        caller = Caller(port)
        yield caller
        caller.close()


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("redirect", [None, "v2/models/simple/infer"])
def test_bodies_of_tritons_client_predict(vertex, binary_in, binary_out, redirect):
    """Goal: what the client's generate_request_body makes is taken, and parse_response_body reads the answer, for the
    default model and for one that is named, on one connection after the other forms."""
    outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary_out)]
    body, size = triton.InferenceServerClient.generate_request_body(row_inputs(binary_in), outputs=outputs)
    headers = {"Content_Type": f"{VERTEX_AI}{size}" if size is not None else "application/json"}
    if redirect is not None:
        headers[REDIRECT] = redirect
    status, fields, answer = vertex.ask("POST", "/predict", body, **headers)
    assert status == 200
    length = fields["Inference-Header-Content-Length"]
    result = triton.InferenceServerClient.parse_response_body(answer, header_length=length and int(length))
    assert (length is not None) == binary_out
    assert (result.as_numpy("OUTPUT0") == 2 * ROW).all()


def test_one_head_with_two_content_types(vertex):
    """Goal: requests that differ in the content type alone are read each by its own. Method: equal bodies, so that all
    other telling headers are the same; in turns."""
    head, tail = binary()
    body = json.dumps(head).encode() + tail
    size = len(body) - len(tail)
    for _ in range(3):
        assert vertex.ask("POST", "/predict", body, Content_Type=f"{VERTEX_AI}{size}")[0] == 200
        assert vertex.ask("POST", "/predict", body, Content_Type="application/json")[0] == 400
        status, _, answer = vertex.ask("POST", "/predict", body, Content_Type=f"{VERTEX_AI}{size - 1}")
        assert (status, b"JSON" in answer) == (500, True)
        assert vertex.ask("POST", "/predict", body, Content_Type=f"{VERTEX_AI}{size}", **{REDIRECT: "v2"})[0] == 200


def test_metrics_by_redirection(vertex):
    """Goal: the page of the metrics door is there, as POST only."""
    status, _, page = vertex.ask("POST", "/predict", **{REDIRECT: "metrics"})
    assert status == 200
    assert b'nv_inference_request_success{model="simple",version="1"}' in page
    assert vertex.ask("GET", "/predict", **{REDIRECT: "metrics"})[0] == 405


def test_restricted_apis_stay_restricted(vertex):
    """Goal: --http-restricted-api holds behind a redirection; other APIs need no key."""
    for target in ("v2/models/simple/config", "v2/systemsharedmemory/status", "v2/cudasharedmemory/status"):
        status, _, text = vertex.ask("POST", "/predict", **{REDIRECT: target})
        assert (status, b"This API is restricted" in text) == (403, True)
        assert vertex.ask("POST", "/predict", X_Key="secret", **{REDIRECT: target})[0] == 200
    assert vertex.ask("POST", "/predict", **{REDIRECT: "v2"})[0] == 200
    assert vertex.ask("POST", "/predict", json.dumps(addsub()))[0] == 200


def test_sagemaker_client(tmp_path):
    """Goal: tensors in SageMaker's content type, both ways, with Triton's client; ping; other paths are not there."""
    with SAGEMAKER_SUITE.running(tmp_path) as (_, port):
        caller = Caller(port)
        outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=True)]
        body, size = triton.InferenceServerClient.generate_request_body(row_inputs(True), outputs=outputs)
        status, fields, answer = caller.ask("POST", "/invocations", body, Content_Type=f"{SAGEMAKER}{size}")
        assert (status, fields["Content-Type"].startswith(SAGEMAKER)) == (200, True)
        length = int(fields["Content-Type"].removeprefix(SAGEMAKER))
        result = triton.InferenceServerClient.parse_response_body(answer, header_length=length)
        assert (result.as_numpy("OUTPUT0") == 2 * ROW).all()
        assert fields["Inference-Header-Content-Length"] is None
        caller.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A running SageMaker door where models are loaded by command, and the folder of archives."""
    with MANY_MODELS_SUITE.running(tmp_path_factory.mktemp("many")) as (server, port):
        caller = Caller(port)
        yield caller, server.repository
        caller.close()


def test_many_models_by_the_names_of_their_archives(many):
    """Goal: with the header that SageMaker sends, list, show, invoke and unload go by the name in the path; the archive
    may be loaded again afterwards. (The reference's list has an empty entry for such models.)"""
    caller, folder = many
    place = {"model_name": "0ff1ce", "url": f"{folder}/two/model"}
    header = {TARGET: "two.tar.gz"}
    for _ in range(2):
        assert caller.ask("POST", "/models", json.dumps(place), **header)[0] == 200
        listed = json.loads(caller.ask("GET", "/models")[2])["models"]
        assert {"modelName": "0ff1ce", "modelUrl": f"{folder}/two/model"} in listed
        for headers in (header, {}, {TARGET: "other.tar.gz"}):
            status, _, answer = caller.ask("POST", "/models/0ff1ce/invoke", json.dumps(addsub()), **headers)
            assert (status, json.loads(answer)["model_name"]) == (200, "two.tar.gz")
        assert caller.ask("DELETE", "/models/0ff1ce", **header)[0] == 200
        assert caller.ask("DELETE", "/models/0ff1ce", **header)[0] == 404
        assert json.loads(caller.ask("GET", "/models")[2])["models"] == []


def test_an_archive_that_is_a_model(many):
    """Goal: with config.pbtxt at its root, the archive's folder is the model, and its parent the repository."""
    caller, folder = many
    nameless("simple", folder / "flat" / "model")
    assert caller.ask("POST", "/models", json.dumps({"model_name": "flat", "url": f"{folder}/flat/model"}))[0] == 200
    shown = json.loads(caller.ask("GET", "/models/flat")[2])
    assert shown == {"modelName": "flat", "modelUrl": f"{folder}/flat"}
    status, _, answer = caller.ask("POST", "/models/flat/invoke", json.dumps(addsub()))
    assert (status, json.loads(answer)["outputs"][0]["data"]) == (200, (2 * ROW).tolist())
    assert caller.ask("DELETE", "/models/flat")[0] == 200


FULL = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        if args["model_name"].startswith("full"):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    def execute(self, requests):
        error = pb_utils.TritonError("CUBLAS_STATUS_ALLOC_FAILED in gemm")
        return [pb_utils.InferenceResponse(error=error) for _ in requests]
"""


def test_want_of_memory_is_507(many):
    """Goal: SageMaker learns from 507 that it has to unload something: for loads and for invocations, while other
    failures are 400. After a load that failed, the archive may be loaded again."""
    caller, folder = many
    nameless("simple", folder / "hungry" / "model" / "simple")
    (folder / "hungry" / "model" / "simple" / "1" / "model.py").write_text(FULL)
    for name, status in (("full1", 507), ("full2", 507), ("fits", 200)):
        place = {"model_name": name, "url": f"{folder}/hungry/model"}
        assert caller.ask("POST", "/models", json.dumps(place))[0] == status
    status, fields, answer = caller.ask("POST", "/models/fits/invoke", json.dumps(addsub()))
    assert (status, fields["Content-Type"]) == (507, "application/json")
    assert "CUBLAS_STATUS_ALLOC_FAILED" in json.loads(answer)["error"]
    assert caller.ask("POST", "/models/fits/invoke", "{}")[0] == 400
    assert caller.ask("DELETE", "/models/fits")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b'{"model_name": 3, "url": "/x"}',
        b'{"model_name": "m", "url": 3}',
        b"[]",
        b'{"model_name": "m", "url": "/proc/self"}',
        b'{"model_name": "m", "url": "/dev/shm/../fd"}',
        b'{"model_name": "m", "url": "/sys"}',
        b'{"model_name": "m", "url": "s3://bucket/model"}',
        b'{"model_name": "m", "url": "/x\\u0000y"}',
    ],
)
def test_bad_loads_are_refused(many, body):
    """Goal: what is no load is 400 with words, and nothing has been loaded; the reference server ends at some of it."""
    caller, _ = many
    status, _, answer = caller.ask("POST", "/models", body)
    assert status == 400
    assert json.loads(answer)["error"]
    assert caller.ask("GET", "/models/m")[0] == 404


def test_a_link_to_the_kernels_files_is_refused(many):
    """Goal: where a path leads counts, not only how it begins."""
    caller, folder = many
    (folder / "link").symlink_to("/proc/self")
    status, _, answer = caller.ask("POST", "/models", json.dumps({"model_name": "m", "url": f"{folder}/link"}))
    assert (status, b"cannot be under" in answer) == (400, True)


# --- The command


def start(arguments, environment, log):
    """`despina serve`, started; what it says goes into `log`."""
    command = [str(Path(sys.executable).parent / "despina"), "serve", *map(str, arguments)]
    with log.open("wb") as sink:
        return subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **environment}, process_group=0
        )


@pytest.fixture
def one_model(tmp_path):
    folder = tmp_path / "one"
    nameless("simple", folder / "simple")
    return folder


def test_prediction_mode_opens_this_door_only(one_model, tmp_path):
    """Goal: in Vertex AI's environment no option is needed: models from AIP_STORAGE_URI, port and routes of its own, no
    HTTP and gRPC doors, the only model by default. Method: health and prediction as the service asks."""
    (port,) = free_ports(1)
    environment = {
        **ROUTES,
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": str(port),
        "AIP_STORAGE_URI": str(one_model),
        "AIP_PREDICT_ROUTE": "/v1/endpoints/12/deployedModels/34:predict",
    }
    log = tmp_path / "log"
    child = start(["--metrics-port=0", OPTION], environment, log)
    try:
        wait_until_listening(port)
        caller = Caller(port)
        assert caller.ask("GET", "/health")[0] == 200
        status, _, answer = caller.ask("POST", environment["AIP_PREDICT_ROUTE"], json.dumps(addsub()))
        assert (status, np.array(json.loads(answer)["outputs"][0]["data"]).sum()) == (200, 2 * ROW.sum())
        caller.close()
    finally:
        stop(child)
    text = log.read_text()
    assert child.returncode == 0, text
    assert f"Started Vertex AI HTTPService at 0.0.0.0:{port}" in text
    assert "Started HTTPService" not in text
    assert "Started GRPC" not in text


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        (
            three_models,
            [],
            "Expect the model repository contains only a single model if default model is not specified",
        ),
        (three_models, ["--vertex-ai-default-model=nope"], "Expect the default model 'nope' is loaded"),
        (None, [], "Expect the model repository contains only a single model"),
    ],
)
def test_without_a_default_model_it_does_not_start(models, options, words, tmp_path):
    """Goal: the reference server's words and exit code 1."""
    folder = tmp_path / "models"
    folder.mkdir()
    if models is not None:
        models(folder)
    closed = ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
    child = start(
        [f"--model-repository={folder}", "--allow-vertex-ai=true", "--vertex-ai-port=0", *closed, OPTION, *options],
        ROUTES,
        tmp_path / "log",
    )
    assert child.wait(20) == 1
    assert f"Invalid argument - {words}" in (tmp_path / "log").read_text()


SERVE = Path(__file__).resolve().parents[2] / "examples" / "deploy" / "sagemaker" / "serve"


def test_serve_script_with_one_model(one_model, tmp_path):
    """Goal: the script that SageMaker runs serves the only model of /opt/ml/model, at the port that it is told;
    variables are options, and without any the log is verbose, as the reference server's image has it."""
    (port,) = free_ports(1)
    told = {"SAGEMAKER_SAFE_PORT_RANGE": "1-65535", "SAGEMAKER_TRITON_SHM_DEFAULT_BYTE_SIZE": "16777216"}
    with served(tmp_path, one_model, port, told) as (caller, log):
        assert caller.ask("GET", "/ping")[0] == 200
        assert caller.ask("POST", "/invocations", json.dumps(addsub()))[0] == 200
    text = log.read_text()
    assert "Starting with the only model of the repository: simple" in text
    assert re.search(r"sagemaker_safe_port_range +\| 1-65535", text)
    assert "shm-default-byte-size=16777216" in re.sub(r"[\s|]", "", text)
    assert "SageMaker request: GET /ping" in text


def test_serve_script_with_many_models(one_model, tmp_path):
    """Goal: with SAGEMAKER_MULTI_MODEL models come by /models; the server begins with none."""
    (port,) = free_ports(1)
    with served(tmp_path, one_model, port, {"SAGEMAKER_MULTI_MODEL": "true"}) as (caller, _):
        assert caller.ask("GET", "/ping")[0] == 200
        assert json.loads(caller.ask("GET", "/models")[2]) == {"models": []}
        place = {"model_name": "m", "url": str(copied(one_model, tmp_path / "archive"))}
        assert caller.ask("POST", "/models", json.dumps(place))[0] == 200
        assert caller.ask("POST", "/models/m/invoke", json.dumps(addsub()))[0] == 200


@pytest.mark.parametrize(
    ("lay_out", "environment", "words"),
    [
        (lambda folder: None, {}, "No model"),
        (three_models, {}, "More than one model"),
        (three_models, {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "nope"}, "nope"),
        (lambda folder: (folder / "config.pbtxt").write_text(""), {}, "top level"),
    ],
)
def test_serve_script_refuses_what_it_cannot_serve(lay_out, environment, words, tmp_path):
    """Goal: exit code 1 and the reason, before a server starts."""
    models = tmp_path / "model"
    models.mkdir()
    lay_out(models)
    done = subprocess.run(
        [sys.executable, SERVE, "serve"],
        env={**script_environment(tmp_path, 0), **environment},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, words in done.stderr) == (1, True)


def script_environment(root, port):
    return {**os.environ, "SAGEMAKER_BASE_DIR": str(root), "SAGEMAKER_BIND_TO_PORT": str(port)}


@contextlib.contextmanager
def served(root, models, port, environment):
    """A server that the script has started over a copy of `models`: a caller and the log."""
    shutil.copytree(models, root / "model")
    log = root / "log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [sys.executable, SERVE, "serve", OPTION],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**script_environment(root, port), **environment},
            process_group=0,
        )
    try:
        wait_until_listening(port)
        caller = Caller(port)
        yield caller, log
        caller.close()
    finally:
        stop(child)
    assert child.returncode == 0, log.read_text()
