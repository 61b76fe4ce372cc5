"""The response cache: what the reference server says, recorded, and this server. Answers, counts, metrics, traces.

Models say how many executions there were, so answers show whether they come out of the cache.
`python -m tests.conformance.test_response_cache` records the reference server's anew.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conformance.comparison import settled
from tests.conformance.servers import HERE, asked_again, reference_script, running_in_process, running_reference

GOLDEN = HERE / "golden" / "response_cache.json"
CONFIG = """backend: "python"
max_batch_size: %d
input [{ name: "IN" data_type: %s dims: [%s] }]
output [{ name: "OUT" data_type: %s dims: [%s] }, { name: "COUNT" data_type: TYPE_INT32 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
%s
"""
CACHED = "response_cache { enable: true }"
FLOATS = ("TYPE_FP32", "-1", "TYPE_FP32", "-1")
BATCHING = "dynamic_batching { }"
ENSEMBLE = """platform: "ensemble"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_FP32 dims: [-1] }, { name: "COUNT" data_type: TYPE_INT32 dims: [1] }]
ensemble_scheduling { step [{
  model_name: "uncached" model_version: -1 input_map { key: "IN" value: "IN" }
  output_map [{ key: "OUT" value: "OUT" }, { key: "COUNT" value: "COUNT" }]
}] }
response_cache { enable: true }
"""
MODELS = {
    "plain": CONFIG % (0, *FLOATS, CACHED),
    "batched": CONFIG % (4, *FLOATS, CACHED + BATCHING),
    "matrix": CONFIG % (0, "TYPE_FP32", "-1, -1", "TYPE_FP32", "-1, -1", CACHED),
    "text": CONFIG % (0, "TYPE_STRING", "-1", "TYPE_STRING", "-1", CACHED),
    "uncached": CONFIG % (0, *FLOATS, "response_cache { }"),
    "whole": ENSEMBLE,
}
REFUSED = {
    "sequence": CONFIG % (4, *FLOATS, CACHED + "sequence_batching { }"),
    "decoupled": CONFIG % (0, *FLOATS, CACHED + "model_transaction_policy { decoupled: true }"),
}
OPTIONS = (
    "--model-control-mode=explicit",
    "--cache-config=local,size=100000",
    "--metrics-interval-ms=100",
    *(f"--load-model={m}" for m in MODELS),
)
A, B = [1.0, 2.0], [2.0, 1.0]
ASKED = {
    "first": ("plain", A, {}),
    "the same": ("plain", A, {}),
    "the same, with an id": ("plain", A, {"id": "x"}),
    "the same, urgently": ("plain", A, {"parameters": {"priority": 2, "timeout": 1000000}}),
    "other bytes": ("plain", B, {}),
    "longer": ("plain", [1.0, 2.0, 3.0], {}),
    "too large to keep": ("plain", [0.5] * 30000, {}),
    "too large to keep, again": ("plain", [0.5] * 30000, {}),
    "a version": ("plain/versions/1", A, {}),
    "batched": ("batched", [A], {}),
    "batched, the same": ("batched", [A], {}),
    "batched, two rows": ("batched", [A, B], {}),
    "batched, two rows, the same": ("batched", [A, B], {}),
    "text": ("text", ["a", "", "öä"], {}),
    "text, the same": ("text", ["a", "", "öä"], {}),
    "text, another": ("text", ["a", "ö", "ä"], {}),
    "uncached": ("uncached", A, {}),
    "uncached, the same": ("uncached", A, {}),
    "whole": ("whole", A, {}),
    "whole, the same": ("whole", A, {}),
    "whole, other bytes": ("whole", B, {}),
}
"""Where both servers say the same, but for response parameters out of the cache."""
ASKED_OTHERWISE = {
    "an error": ("plain", [-1.0], {}),
    "an error, the same": ("plain", [-1.0], {}),
    "with a parameter": ("plain", A, {"parameters": {"p": 1}}),
    "one output": ("plain", A, {"outputs": [{"name": "COUNT"}]}),
    "matrix": ("matrix", [A, B], {}),
    "matrix, of another shape": ("matrix", [A + B], {}),
}
KNOWN_DIFFERENCES = {
    "an error, the same": "there an error without outputs is kept as an answer without outputs",
    "with a parameter": "there parameters are no part of the key",
    "one output": "there wanted outputs are no part of the key",
    "matrix, of another shape": "there shapes are no part of the key: another one's answer, in its shape",
}
FAMILIES = re.compile(r"nv_(cache|inference)_\w+")
COUNTED = re.compile(
    r"(nv_(?:cache_num_(?:hits|misses)_per_model|inference_(?:request_success|count|exec_count)|"
    r"inference_request_failure)\{[^}]*\}) (\S+)"
)
WHOLE = ("nv_cache_num_entries", "nv_cache_num_hits", "nv_cache_num_misses", "nv_cache_num_lookups")


def write(folder):
    """A repository of the models in `folder`."""
    for name, config in (MODELS | REFUSED).items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(config)
        if name != "whole":
            shutil.copy(HERE / "counting_model.py", version / "model.py")
    return folder / "models"


def posted(server, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http_port}/v2/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read() or b"{}")
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.loads(error.read())}


def asked(server, model, values, more):
    """The answer as JSON, outputs by name; of long outputs only how long they are."""
    array = np.array(values)
    datatype = "BYTES" if model == "text" else "FP32"
    tensor = {"name": "IN", "datatype": datatype, "shape": list(array.shape), "data": values}
    answer = posted(server, f"models/{model}/infer", {"inputs": [tensor], **more})
    answer.get("outputs", []).sort(key=lambda output: output["name"])
    for output in answer.get("outputs", ()):
        if len(output["data"]) > 100:
            output["data"] = len(output["data"])
    return answer


def got(server, port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as reply:
        return reply.read().decode()


def answers(server, questions):
    found = {name: asked(server, *question) for name, question in questions.items()}
    return settled(found, str(server.repository))


def by_clients(server):
    """What Triton's clients, binary both, are told about requests that were asked in JSON before."""
    found = {}
    for module, port in ((triton_grpc, server.grpc_port), (triton_http, server.http_port)):
        client = module.InferenceServerClient(f"127.0.0.1:{port}")
        for model in ("plain", "whole", "uncached"):
            tensor = module.InferInput("IN", [2], "FP32")
            tensor.set_data_from_numpy(np.array(A, np.float32))
            result = client.infer(model, [tensor], request_id="g")
            found[f"{module.__name__} {model}"] = [result.as_numpy(name).tolist() for name in ("OUT", "COUNT")]
        client.close()
    return found


def settled_page(server):
    """The metrics page once its numbers stand still: the reference server looks at its cache now and then."""
    deadline = time.monotonic() + 20
    still, before = 0, ""
    while still < 5 and time.monotonic() < deadline:
        time.sleep(0.3)
        page = got(server, server.metrics_port, "metrics")
        counts = re.findall(r"^nv_cache_num\w+ .*$", page, re.M)
        still, before = (still + 1, before) if counts == before else (0, counts)
    return page


def observed(server):
    """What the server says once all of that is asked."""
    page = settled_page(server)
    return {
        "statistics": {
            model: settled(
                json.loads(got(server, server.http_port, f"v2/models/{model}/stats")), str(server.repository)
            )
            for model in MODELS
            if model not in ("matrix",)
        },
        "families": sorted(
            {line for line in page.splitlines() if line.startswith("#") and FAMILIES.search(line)}
            - {line for line in page.splitlines() if "nv_inference" in line}
        ),
        "counts": sorted(
            f"{series} {float(value):g}" for series, value in COUNTED.findall(page) if 'model="matrix"' not in series
        ),
        "whole": {name: float(re.search(rf"^{name} (\S+)$", page, re.M)[1]) for name in WHOLE},
        "refused": {
            model: settled(posted(server, f"repository/models/{model}/load", {}), str(server.repository))
            for model in REFUSED
        },
    }


def said(server):
    """All of it, in order."""
    return {
        "answers": answers(server, ASKED),
        "clients": by_clients(server),
        "observed": observed(server),
        "otherwise": answers(server, ASKED_OTHERWISE),
    }


def traced(run, folder):
    """The time stamps of a request that was executed, and of one that was not."""
    file = folder / "trace.json"
    options = (
        *OPTIONS,
        f"--trace-config=triton,file={file}",
        "--trace-config=rate=1",
        "--trace-config=level=TIMESTAMPS",
    )
    with run(folder / "models", folder, options) as server:
        for _ in range(2):
            asked(server, "plain", A, {})
        posted(server, "trace/setting", {"trace_level": ["OFF"]})  # what is noted goes to the file
        deadline = time.monotonic() + 20
        while not file.exists():
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.05)
        time.sleep(0.5)
    names: dict[int, list] = {}
    for trace in json.loads(file.read_text()):
        names.setdefault(trace["id"], []).extend(stamp["name"] for stamp in trace.get("timestamps", ()))
    return [sorted(set(stamps)) for stamps in names.values()]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with running_in_process(write(folder), folder, OPTIONS) as server:
        return said(server)


@pytest.fixture(scope="module")
def recorded():
    return json.loads(GOLDEN.read_text())


def test_answers(ours, recorded):
    """Goal: the same answers, of the same executions, on both doors."""
    mine, theirs = ours["answers"], recorded["answers"]
    kept = mine["whole, the same"].pop("parameters")  # there response parameters are not kept
    assert kept == mine["whole"]["parameters"]
    assert mine == theirs
    assert ours["clients"] == recorded["clients"]


def test_where_answers_differ_on_purpose(ours, recorded):
    """Goal: no request is answered with what was kept for another; that differs, and only that."""
    mine, theirs = ours["otherwise"], recorded["otherwise"]
    assert {name for name in mine if mine[name] != theirs[name]} == KNOWN_DIFFERENCES.keys()
    assert [mine[name]["outputs"][0]["data"] for name in ("matrix", "matrix, of another shape")] == [[1, 1], [2]]


@pytest.mark.parametrize("what", ["statistics", "families", "counts", "whole", "refused"])
def test_what_is_seen_of_it(ours, recorded, what):
    """Goal: the same statistics, metrics, and texts where a model may not have a cache."""
    assert ours["observed"][what] == recorded["observed"][what]


def test_traces(tmp_path, recorded):
    """Goal: the same moments are noted of a hit."""

    def ask(folder):
        write(folder)
        return traced(running_in_process, folder)

    assert asked_again(ask, recorded["traces"], tmp_path) == recorded["traces"]


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(tmp_path, recorded):
    """Goal: the recorded answers are the reference server's. Method: ask it again."""
    assert asked_again(reference, recorded, tmp_path) == recorded


def reference(folder):
    with running_reference(write(folder), folder, OPTIONS) as server:
        found = said(server)
    return {**found, "traces": traced(running_reference, folder)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        GOLDEN.write_text(json.dumps(reference(Path(name)), indent=1, ensure_ascii=False) + "\n")
