"""Several repositories, with and without namespaces: the reference server's answers, recorded, and this server's.

`python -m tests.conformance.test_repositories` records the reference server's anew.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conformance.servers import HERE, asked_again, reference_script, running_in_process, running_reference

GOLDEN = HERE / "golden" / "repositories.json"
TENSORS = """max_batch_size: 8
input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
MODEL = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array + {more})]) for array in arrays]
"""
FIRST = {"both": 10, "one": 1, "ens": "both"}
SECOND = {"both": 20, "ens": "both", "ens_one": "one"}
"""What a model adds, or which one an ensemble asks."""
NAMES = ("both", "one", "ens", "ens_one", "nobody")
NAMESPACES = "--model-namespacing=true"
EXPLICIT = "--model-control-mode=explicit"
STORIES = {
    "all of two repositories": ((), ()),
    "by command": ((EXPLICIT,), ("load one", "load both", "load ens", "load ens_one", "unload one", "unload both")),
    "all, with namespaces": ((NAMESPACES,), ()),
    "by command, with namespaces": (
        (NAMESPACES, EXPLICIT),
        ("load both", "load one", "load ens", "load ens_one", "load nobody", "unload both", "unload one", "load one"),
    ),
}


def write(repository, models):
    for name, what in models.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        if isinstance(what, int):
            (version / "model.py").write_text(MODEL.format(more=what))
            text = f'backend: "python"\n{TENSORS}instance_group [ {{ count: 1 kind: KIND_CPU }} ]\n'
        else:
            text = f'platform: "ensemble"\n{TENSORS}ensemble_scheduling {{ step [ {{ model_name: "{what}"'
            text += (
                ' model_version: -1 input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "OUT" } } ] }\n'
            )
        (version.parent / "config.pbtxt").write_text(text)
    return repository


def call(server, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{server.http_port}/v2/{path}", data)
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            text, status = reply.read().decode(), reply.status
    except urllib.error.HTTPError as error:
        with error:
            text, status = error.read().decode(), error.code
    return [status, json.loads(text) if text.startswith(("{", "[")) else text]


def index(server):
    """Once nothing is on its way out any more."""
    for _ in range(200):
        _, lines = call(server, "repository/index", {})
        if all(line.get("state") != "UNLOADING" for line in lines):
            break
        time.sleep(0.05)
    return lines


def asked(server, name):
    """What clients get who only know the name."""
    tensor = {"name": "IN", "shape": [1, 1], "datatype": "INT32", "data": [0]}
    status, answer = call(server, f"models/{name}/infer", {"inputs": [tensor]})
    if status == 200:
        answer = answer["outputs"][0]["data"]
    metadata = call(server, f"models/{name}")
    statistics = call(server, f"models/{name}/stats")
    if statistics[0] == 200:
        # Not how many: the reference server begins anew when an ensemble is loaded that asks the model.
        statistics[1] = [[line["name"], line["version"]] for line in statistics[1]["model_stats"]]
    return {
        "infer": [status, answer],
        "metadata": metadata if metadata[0] != 200 else [200, metadata[1]["name"], metadata[1]["versions"]],
        "ready": call(server, f"models/{name}/ready"),
        "statistics": statistics,
    }


def metrics(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=20) as reply:
        lines = reply.read().decode().splitlines()
    return sorted(line for line in lines if line.startswith("nv_inference_count{"))


def story(server, steps):
    told = [["start", index(server), {name: asked(server, name) for name in NAMES}]]
    for step in steps:
        what, _, name = step.partition(" ")
        answer = call(server, f"repository/models/{name}/{what}", {})
        told.append([step, answer, index(server), {name: asked(server, name) for name in NAMES}])
    return [*told, metrics(server)]


def stories(run):
    """All of them, told by the servers that `run` runs; where the repositories are is left out."""
    found = {}
    for name, (options, steps) in STORIES.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            first, second = write(folder / "models", FIRST), write(folder / "second", SECOND)
            more = [f"--model-repository={second}", "--exit-on-error=false", *options]
            with run(first, folder, more) as server:
                told = json.dumps(story(server, steps))
            found[name] = json.loads(told.replace(str(server.repository), "<first>").replace(str(second), "<second>"))
    return found


@pytest.fixture(scope="module")
def recorded():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def ours():
    return stories(running_in_process)


@pytest.mark.parametrize("name", STORIES)
def test_answers_equal_the_reference_servers(recorded, ours, name):
    """Goal: index, answers, texts, readiness, statistics and metrics after each step, as recorded."""
    for said, heard in zip(recorded[name], ours[name], strict=True):
        assert heard == said


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(recorded, tmp_path):
    """Goal: the records are the reference server's. Method: ask it again. Not for metrics, the last of each story: when
    those of an unloaded model go is a race there."""
    known = {name: told[:-1] for name, told in recorded.items()}
    assert asked_again(without_metrics, known, tmp_path) == known


def without_metrics(_):
    return {name: told[:-1] for name, told in stories(running_reference).items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(stories(running_reference), indent=1, sort_keys=True) + "\n")
