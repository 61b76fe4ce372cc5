"""Ensembles on both doors: the reference server's answers, counts, metrics and traces, recorded, and this server's.

`python -m tests.conformance.test_ensembles` records the reference server's anew.
"""

from __future__ import annotations

import json
import queue
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from tests.conformance.ensemble_models import BROKEN, ENSEMBLES, MODELS, write
from tests.conformance.servers import HERE, asked_again, reference_script, running_despina, running_reference

GOLDEN = HERE / "golden" / "ensembles.json"
STREAMS = ("counted", "late", "around", "stopped")
COUNTED = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
)
SEQUENCE = {"sequence_id": 9, "sequence_start": True, "sequence_end": True}
ASKED = {
    **{
        f"{name} of {value}": (name, value, {})
        for name in ENSEMBLES
        for value in (1, -3)
        if name not in (*STREAMS, "pruned")
    },
    "rows": ("chain", [[1], [2], [3]], {}),
    "too many rows": ("chain", [[1]] * 5, {}),
    "an id": ("nested", 1, {"id": "x"}),
    "an id, and a fault": ("deep", 1, {"id": "x"}),
    "all that steps are told": (
        "told",
        1,
        {"id": "x", "parameters": {"p": 1, "priority": 3, "timeout": 77, **SEQUENCE}},
    ),
    "two outputs": ("pruned", -3, {"outputs": [{"name": "Y"}, {"name": "X"}]}),
    "an output that is not": ("pruned", 5, {"outputs": [{"name": "W"}]}),
    "labels of a step's model": ("labelled", 1, {"outputs": [{"name": "OUT", "parameters": {"classification": 2}}]}),
    "a stream": ("counted", 1, {}),
    "a version": ("chain/versions/1", 1, {}),
    "another version": ("chain/versions/2", 1, {}),
}
FALSELY_PRUNED = {
    "one output": ("pruned", -3, {"outputs": [{"name": "X"}]}),
    "an output that is refused": ("pruned", -3, {"outputs": [{"name": "Z"}]}),
    "only what is made": ("half", 3, {"outputs": [{"name": "REST"}]}),
    "only what is not made": ("half", -3, {"outputs": [{"name": "REST"}]}),
}
"""24.10 leaves out a step that is needed if another that reads what it makes is not."""


def get(server, path, body=None):
    """Status and JSON, or text."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{server.http_port}/v2/{path}", data)
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            text, status = reply.read().decode(), reply.status
    except urllib.error.HTTPError as error:
        with error:
            text, status = error.read().decode(), error.code
    return [status, json.loads(text) if text.startswith(("{", "[")) else text]


def infer(server, model, value, more):
    """The answer over HTTP; outputs by name, for the reference server has them in any order."""
    data = [[value]] if isinstance(value, int) else value
    shape = [1] if model == "adapt" else [len(data), 1]
    inputs = [{"name": "IN", "datatype": "INT32", "shape": shape, "data": [number for row in data for number in row]}]
    status, answer = get(server, f"models/{model}/infer", {"inputs": inputs, **more})
    if "outputs" in answer:
        answer["outputs"] = {one.pop("name"): one for one in answer["outputs"]}
    return [status, answer]


def streamed(server, model, value):
    """Every answer over a gRPC stream: its number or text, and what says whether it is the last."""
    arrived: queue.Queue = queue.Queue()
    found = []
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(callback=lambda result, error: arrived.put((result, error)))
        tensor = triton_grpc.InferInput("IN", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.array([[value]], np.int32))
        client.async_stream_infer(model, [tensor], request_id="s", enable_empty_final_response=True)
        while True:
            try:
                result, error = arrived.get(timeout=1 if found else 20)
            except queue.Empty:  # after an error the reference server says nothing more
                return found
            if error is not None:
                found.append(f"error: {error.message()}")
                continue
            response = result.get_response()
            last = response.parameters["triton_final_response"].bool_param
            values = [result.as_numpy(output.name).ravel().tolist() for output in response.outputs]
            found.append([values, response.id, last])
            if last:
                return found


def counts(server):
    """Requests, executions and batches of each model."""
    _, told = get(server, "models/stats")
    return {
        one["name"]: {
            "inferences": one["inference_count"],
            "executions": one["execution_count"],
            "batches": {str(batch["batch_size"]): batch["compute_infer"]["count"] for batch in one["batch_stats"]},
            **{key: one["inference_stats"][key]["count"] for key in ("success", "fail", "queue", "compute_infer")},
        }
        for one in told["model_stats"]
    }


def metrics(server):
    """The counters of each model that are not 0."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as reply:
        lines = [line for line in reply.read().decode().splitlines() if line.startswith(COUNTED)]
    found = {}
    for line in lines:
        name, labels = line[: line.index("}")].split("{")
        labels = ",".join(sorted(label for label in labels.split(",") if label))
        value = float(line.rsplit(" ", 1)[1])
        if value:
            found[f"{name} {labels}"] = value
    return found


def tree(folder, number):
    """One trace: its model, its moments, and those of the requests that it has caused, by model."""
    objects = json.loads((folder / f"trace.json.{number}").read_text())
    traces = {}
    for one in objects:
        trace = traces.setdefault(one["id"], {"moments": [], "children": []})
        trace |= {key: one[key] for key in ("model_name", "model_version", "request_id", "parent_id") if key in one}
        trace["moments"] += [moment["name"] for moment in one.get("timestamps", ())]
    whole = None
    for trace in traces.values():
        trace["moments"].sort()
        parent = trace.pop("parent_id", None)
        if parent is None:
            whole = trace
        else:
            traces[parent]["children"].append(trace)
    for trace in traces.values():
        trace["children"].sort(key=json.dumps)
    return whole


def answers(server):
    """Everything that is compared."""
    found = {"http": {name: infer(server, *asked) for name, asked in ASKED.items()}}
    asked = [(model, value) for model in ("chain", "deep", *STREAMS) for value in (0, 1, 4, -2)]
    in_the_middle = [(model, value) for model, value in asked if model in STREAMS and value < 0] + [("stopped", 4)]
    found["grpc"] = {f"{one[0]} of {one[1]}": streamed(server, *one) for one in asked if one not in in_the_middle}
    found["counts"], found["metrics"] = counts(server), metrics(server)
    # What fails beside others: how far those come is chance.
    found["http"]["all outputs, one refused"] = infer(server, "pruned", 1, {})
    found["grpc"] |= {f"{one[0]} of {one[1]}": streamed(server, *one) for one in in_the_middle}
    found["falsely pruned"] = {name: infer(server, *asked) for name, asked in FALSELY_PRUNED.items()}
    found["config"] = [get(server, f"models/{name}/config")[1].get("model_transaction_policy") for name in STREAMS]
    found["metadata"] = {name: get(server, f"models/{name}")[1] for name in ("nested", "optional", "mixed", "adapt")}
    return found


def traced(server, folder):
    """The traces of some requests, one file each."""
    for name in ("an id", "an id, and a fault", "two outputs"):
        infer(server, *ASKED[name])
    deadline = time.monotonic() + 20
    while not all((folder / f"trace.json.{number}").exists() for number in range(3)):
        assert time.monotonic() < deadline, sorted(path.name for path in folder.iterdir())
        time.sleep(0.05)
    time.sleep(0.5)
    return [tree(folder, number) for number in range(3)]


def trace_options(folder):
    given = {"rate": 1, "level": "TIMESTAMPS", "log-frequency": 1}
    options = [f"--trace-config=triton,file={folder}/trace.json"]
    options += [f"--trace-config=triton,{key}={value}" for key, value in given.items() if key == "log-frequency"]
    return options + [f"--trace-config={key}={value}" for key, value in given.items() if key != "log-frequency"]


def state(server):
    """What the index says, but for what was never loaded."""
    _, index = get(server, "repository/index", {})
    return {one["name"]: [one["state"], one.get("reason", "")] for one in index if "state" in one}


def loaded(server, name, action="load", parameters=None):
    """What loading says, and what the log says of it meanwhile."""
    before = server.log.stat().st_size
    body = {} if parameters is None else {"parameters": parameters}
    said = get(server, f"repository/models/{name}/{action}", body)
    time.sleep(0.2)  # unloading goes on behind the answer
    with server.log.open(errors="replace") as log:
        log.seek(before)
        lines = [line.partition("] ")[2] for line in log.read().splitlines()]
    about = {line for line in lines if f"nsemble {name}" in line or f"directory '{name}'" in line}
    return json.loads(json.dumps({"said": said, "log": sorted(about)}).replace(str(server.repository), "REPOSITORY"))


def story(server):
    """Loads and unloads, in order."""
    found = {f"load {name}": loaded(server, name) for name in BROKEN}
    found["states of what is broken"] = {key: one[0] for key, one in state(server).items()}
    for step, name, parameters in (
        ("load", "nested", None),
        ("unload", "add", None),
        ("load", "add", None),
        ("load", "nested", None),
        ("unload", "chain", None),
        ("load", "chain", None),
        ("unload", "nested", None),
        ("load", "diamond", None),
        ("unload", "diamond", {"unload_dependents": True}),
    ):
        number = len(found)
        said = loaded(server, name, step, parameters)["said"]
        time.sleep(0.5)
        kept = ("add", "chain", "nested", "join", "diamond")
        found[f"{number}: {step} {name}"] = [said, {key: one for key, one in state(server).items() if key in kept}]
    return found


EXPLICIT = ("--model-control-mode=explicit", "--log-verbose=0")


@pytest.fixture
def recorded():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensembles")
    with running_despina(write(folder, MODELS | ENSEMBLES), folder) as server:
        return json.loads(json.dumps(answers(server)))


@pytest.mark.parametrize("part", ["http", "config", "metadata"])
def test_answers_equal_the_reference_servers(recorded, ours, part):
    """Goal: values, parameters, texts and codes of unary answers as recorded."""
    assert ours[part] == recorded["answers"][part]


def test_streamed_answers_equal_the_reference_servers(recorded, ours):
    """Goal: the same numbers in the same order and the same error at the end. After an error in the middle the
    reference server has sent any part of what came before, and here it is all of it; an empty final answer follows
    there or not, as its threads race."""
    said = recorded["answers"]["grpc"]
    assert ours["grpc"].keys() == said.keys()

    def without_last(answered):
        return [one if isinstance(one, str) else one[0] for one in answered if isinstance(one, str) or one[0]]

    for name, answered in ours["grpc"].items():
        found, expected = without_last(answered), without_last(said[name])
        assert found[-1:] == expected[-1:], name
        assert found[: len(expected) - 1] == expected[:-1], name
        if not any(isinstance(one, str) for one in expected):
            assert found == expected, name
            assert [one[2] for one in answered] == [False] * (len(answered) - 1) + [True], name


def test_what_the_reference_server_falsely_prunes_is_answered(recorded, ours):
    """Goal: an output that is wanted is made. The reference server says that it cannot, and would be wrong."""
    assert all("unexpected deadlock" in said[1]["error"] for said in recorded["answers"]["falsely pruned"].values())
    found = ours["falsely pruned"]
    assert found["one output"][1]["outputs"]["X"]["data"] == [-2]
    assert found["an output that is refused"] == [503, {"error": "in ensemble 'pruned', refused [-2]"}]
    assert list(found["only what is made"][1]["outputs"]) == ["REST"]
    assert found["only what is not made"] == recorded["answers"]["falsely pruned"]["only what is not made"]


def test_statistics_and_metrics_equal_the_reference_servers(recorded, ours):
    """Goal: the same counts for each model. The reference server counts most failures of ensembles twice, and
    a Python model's error as a success."""
    said = recorded["answers"]["counts"]
    assert ours["counts"].keys() == said.keys()
    for name, counted in ours["counts"].items():
        expected, told = dict(counted), dict(said[name])
        failed = expected.pop("fail")
        if name in ENSEMBLES:
            assert failed <= told.pop("fail") <= 2 * failed
        else:
            assert told.pop("fail") == 0
            for key in ("success", "inferences", "queue", "compute_infer"):
                expected[key] += failed
        assert expected == told, name
    theirs = recorded["answers"]["metrics"]

    def comparable(metrics):
        """Failures are counted as in the statistics."""
        of_errors = [f'model="{name}"' for name in ("count", "refuse")]
        return {
            key: 1 if "failure" in key else value
            for key, value in metrics.items()
            if "exec_count" in key or not any(model in key for model in of_errors)
        }

    assert comparable(ours["metrics"]) == comparable(theirs)


def test_traces_equal_the_reference_servers(recorded, tmp_path):
    """Goal: one file for each request, with the moments of it and of all that it has caused, and who caused what."""

    def ask(folder):
        with running_despina(write(folder, MODELS | ENSEMBLES), folder, trace_options(folder)) as server:
            return traced(server, folder)

    assert asked_again(ask, recorded["traces"], tmp_path) == recorded["traces"]


def test_loads_and_unloads_equal_the_reference_servers(recorded, tmp_path):
    """Goal: what the callers of loads and unloads hear, what the log says of ensembles, what the index shows then."""
    with running_despina(write(tmp_path, MODELS | ENSEMBLES | BROKEN), tmp_path, EXPLICIT) as server:
        ours = json.loads(json.dumps(story(server)))
    said = recorded["story"]
    differing = {name: (ours[name], said[name]) for name in said if ours[name] != said[name]}
    assert differing.keys() == {"load circle_b", "25: unload add"}, differing
    text = "load failed for model 'circle_b': circular dependency between ensembles: circle_b -> ... -> circle_a -> "
    assert ours["load circle_b"]["said"] == [400, {"error": f"{text}circle_b\n"}]  # there: no version is available
    assert ours["25: unload add"][1]["add"] == ["UNAVAILABLE", "unloaded"]  # there it stays UNLOADING for ever


def record(parts=("answers", "traces", "story")) -> dict:
    """What the reference server says."""
    found = {}
    for part, models, options, ask in (
        ("answers", MODELS | ENSEMBLES, (), lambda server, _: answers(server)),
        ("traces", MODELS | ENSEMBLES, None, traced),
        ("story", MODELS | ENSEMBLES | BROKEN, EXPLICIT, lambda server, _: story(server)),
    ):
        if part not in parts:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            given = trace_options(folder) if options is None else options
            with running_reference(write(folder, models), folder, given) as reference:
                found[part] = ask(reference, folder)
    return found


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(recorded, tmp_path):
    """Goal: the records are the reference server's. Method: ask it again. Not for loads and unloads, which take it
    minutes on a busy machine."""
    known = settled({part: recorded[part] for part in ("answers", "traces")})
    assert asked_again(lambda _: settled(record(("answers", "traces"))), known, tmp_path) == known


def settled(said):
    """Without what its threads race for."""
    said = json.loads(json.dumps(said))
    for counted in said["answers"]["counts"].values():
        counted.pop("fail")
    for part in ("grpc", "metrics"):
        del said["answers"][part]
    return said


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(record(), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
