"""One short Python model for each thing that models do, over both doors: the reference server's answers, recorded, and
this server's, with models in processes of their own and in the server's.

`python -m tests.conformance.test_python_models` records the reference server's answers anew.
"""

from __future__ import annotations

import json
import queue
import re
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conformance.servers import asked_again, reference_script, running_despina, running_reference

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models_python"
GOLDEN = HERE / "golden" / "python_models.json"
LOADED = [path.name for path in sorted(MODELS.iterdir()) if path.name != "spare"]
OPTIONS = ("--model-control-mode=explicit", *(f"--load-model={name}" for name in LOADED))
PICTURE = b"P6\n4 4\n255\n" + bytes(range(0, 240, 5))
A, B = np.array([[1, 2.5, -3, 1e10]], np.float32), np.array([[0.5, 2, 7, -1]], np.float32)


def strings(*words, rows=None):
    values = np.array([*words, None], np.object_)[:-1]
    return values if rows is None else values.reshape(rows, -1)


def ints(*values):
    return np.array(values, np.int32)


KINDS = {"i": "INT32", "f": "FP32", "O": "BYTES", "u": "UINT8"}
QUESTIONS = {
    "add_sub": [
        {"A": A, "B": B},
        {"A": np.repeat(A, 3, 0), "B": np.repeat(B, 3, 0)},
        {"A": A},
        {"A": A, "B": B.astype(np.int32)},
        {"A": A[:, :3], "B": B},
        {"A": np.repeat(A, 9, 0), "B": np.repeat(B, 9, 0)},
    ],
    "auto_complete": [{"A": ints([1, 2])}, {"A": ints([1, 2]), "B": ints([3, 4])}, {"B": ints([3, 4])}],
    "bls": [
        {"MODEL": strings("add_sub"), "A": A, "B": B},
        {"MODEL": strings("spare"), "A": A, "B": B},
        {"MODEL": strings("nobody"), "A": A, "B": B},
    ],
    "bls_async": [{"A": A, "B": B}],
    "bls_decoupled": [{"IN": ints(3, 1, 2)}, {"IN": ints(5)}],
    "custom_metrics": [{"SECONDS": np.array([value], np.float32)} for value in (1.5, 0.25)],
    "preprocessing": [
        {"FILE": np.frombuffer(PICTURE, np.uint8).reshape(1, -1)},
        {"FILE": np.frombuffer(2 * PICTURE, np.uint8).reshape(2, -1)},
        {"FILE": np.frombuffer(b"GIF" + PICTURE, np.uint8).reshape(1, -1)},
    ],
    "strings": [
        {"IN": strings("a", "Straße", "", "日本", rows=1)},
        {"IN": strings("x" * 300, "y", rows=2)},
        {"IN": strings(b"\xff\xfe", rows=1)},
        {"IN": strings(rows=1)},
    ],
    "errors": [
        {"HOW": strings(how, rows=1)}
        for how in ("fine", "raise", "raise ours", "too few", "no response", "error", "NOT_FOUND", "INVALID_ARG")
    ],
    "rescheduling": [{"IN": ints(rounds)} for rounds in (1, 4)],
    "response_sender": [{"HOW": strings(how)} for how in ("once", "flags only", "wrong flags")],
    "model_control": [{"DO": strings("spare")}, {"DO": strings("nobody")}],
}
STREAMED = {"decoupled": [{"IN": ints(3, 1, 2)}, {"IN": ints(4, -1, 5)}, {"IN": ints(-1)}]}
TOGETHER = ("fine", "error", "fine", "NOT_FOUND")
"""Asked of `errors` at a time, to be one batch."""


def filled(module, inputs):
    """As Triton's clients have them."""
    found = []
    for name, values in inputs.items():
        tensor = module.InferInput(name, list(values.shape), KINDS[values.dtype.kind])
        tensor.set_data_from_numpy(values)
        found.append(tensor)
    return found


def shown(result, names):
    """The outputs as JSON has them."""
    found = {name: result.as_numpy(name) for name in names}
    return {
        name: [str(values.dtype), list(values.shape), [_plain(value) for value in values.ravel()]]
        for name, values in found.items()
        if values is not None
    }


def _plain(value):
    return value.decode() if isinstance(value, bytes) else value.item()


def asked(client, module, model, inputs, names):
    """The outputs, or the error's text and status."""
    try:
        return shown(client.infer(model, filled(module, inputs), request_id="one"), names)
    except Exception as error:
        return f"{error}"


def streamed(client, model, inputs, names):
    """All answers of one request, in order."""
    answers = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer(
            model, filled(triton_grpc, inputs), request_id="one", enable_empty_final_response=True
        )
        found = []
        while True:
            result, error = answers.get(timeout=20)
            if error is not None:
                found.append(str(error))
                continue
            response = result.get_response()
            if response.outputs:
                found.append(shown(result, names))
            if response.parameters["triton_final_response"].bool_param:
                return found
    finally:
        client.stop_stream()


def answers(server):
    """What each model answers, over each door, and what the server says of some."""
    said = {}
    with (
        triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}", network_timeout=30) as http,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as grpc,
    ):
        doors = {"http": (http, triton_http), "grpc": (grpc, triton_grpc)}
        for model, questions in QUESTIONS.items():
            names = [output["name"] for output in http.get_model_config(model)["output"]]
            for door, (client, module) in doors.items():
                told = [asked(client, module, model, inputs, names) for inputs in questions]
                said[f"{model}, {door}"] = told
        for model, questions in STREAMED.items():
            said[model] = [streamed(grpc, model, inputs, ["OUT", "NUMBER"]) for inputs in questions]
        said["auto_complete, configuration"] = _told(http.get_model_config("auto_complete"))
        said["errors, in one batch"] = _together(server)
    said["custom_metrics, page"] = _page(server)
    return {name: _settled(answer, str(server.repository)) for name, answer in said.items()}


def _told(config):
    names = ("name", "max_batch_size", "input", "output", "dynamic_batching", "backend")
    return {name: config.get(name) for name in names}


def _together(server):
    def ask(how):
        with triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
            return asked(client, triton_http, "errors", {"HOW": strings(how, rows=1)}, ["OUT"])

    with ThreadPoolExecutor(len(TOGETHER)) as pool:
        return list(pool.map(ask, TOGETHER))


def _page(server):
    time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sorted(line for line in lines if re.match(r"(# [A-Z]+ )?python_", line))


def _settled(answer, repository):
    """Without the folder of this run, and as it comes back from a file."""
    return json.loads(json.dumps(answer, sort_keys=True).replace(repository, "REPOSITORY"))


RECORDED = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}


@pytest.fixture(scope="module", params=["none", "process"])
def said(tmp_path_factory, request):
    """This project's answers, of models in the server's process and in their own."""
    options = (*OPTIONS, f"--backend-config=python,isolation={request.param}")
    with running_despina(MODELS, tmp_path_factory.mktemp(request.param), options) as server:
        return answers(server)


@pytest.mark.parametrize("name", RECORDED)
def test_models_behave_as_on_the_reference_server(name, said):
    """Goal: the same answers and the same errors over both doors."""
    assert said[name] == RECORDED[name]


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(tmp_path):
    """Goal: the recorded answers are the reference server's."""
    assert asked_again(_recorded, RECORDED, tmp_path) == RECORDED


def _recorded(folder):
    with running_reference(MODELS, folder, OPTIONS) as server:
        return answers(server)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = _recorded(Path(folder))
    lines = [f"{json.dumps(name)}: {json.dumps(answer, ensure_ascii=False)}" for name, answer in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    sys.stdout.write(f"{len(found)} answers in {GOLDEN.name}\n")
