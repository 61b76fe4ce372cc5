"""Models that ask other models: the reference server's answers, recorded, and this server's.

The scripts run inside models of models_nested/, on both servers.
`python -m tests.conformance.test_nested` records the reference server's answers anew.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http

from tests.conformance.metric_scripts import KEPT, METRICS, PAGE
from tests.conformance.nested_scripts import AWAITED, CALLS, CODES, CONTROL, TRACED
from tests.conformance.servers import asked_again, reference_script, running_despina, running_reference
from tests.conformance.test_ensembles import get, trace_options, tree

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models_nested"
GOLDEN = HERE / "golden" / "nested.json"
GOLDEN_TRACES = HERE / "golden" / "nested_traces.json"
LOADED = ("caller", "waiter", "add", "repeat", "odd", "total", "late")
OPTIONS = ("--model-control-mode=explicit", *(f"--load-model={name}" for name in LOADED))
NEWER = "24.10 makes every error of a nested call INTERNAL; the newest release keeps the code of what was answered"
KNOWN_DIFFERENCES = {
    **{f"calls: the code {code}": NEWER for code in CODES if code != "INTERNAL"},
    "calls: an input too many": "the order in which inputs are named is a hash's there",
    "calls: decoupled with an error": "24.10 loses errors among the answers",
    "calls: read twice": "answers are given once: an endless stream cannot be kept",
    "calls: cancel after the end": "24.10 has no cancel, the newest release has",
}
PARTS = {
    "calls": {name: ("caller", script) for name, script in CALLS.items()}
    | {name: ("waiter", script) for name, script in AWAITED.items()},
    "control": {name: ("caller", script) for name, script in CONTROL.items()},
    "metrics": {name: ("caller", script) for name, script in METRICS.items()},
    "kept": {name: ("caller", script) for name, script in KEPT.items()},
    "late": {how: ("late", how) for how in ("now", "later", "list", "error", "flag first", "two sends")},
}
"""Each is asked of a server of its own."""


def asked(client, model, text, name="SCRIPT", output="SAID"):
    """The lines of the answer, or the error's text."""
    tensor = triton_http.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], np.object_))
    try:
        return [line.decode() for line in client.infer(model, [tensor]).as_numpy(output).tolist()]
    except Exception as error:
        return f"error: {error}"


def page(server):
    """The lines of the metrics page about families of the models' own."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sorted(line for line in lines if re.match("(# [A-Z]+ )?[cgh]1[ _{]", line))


def answers(part, server, names=()):
    """What was asked -> what was answered, in order."""
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}", network_timeout=20) as client:
        found = {}
        for name, (model, script) in PARTS[part].items():
            if names and name not in names:
                continue
            names_of = ("HOW", "SUM") if model == "late" else ("SCRIPT", "SAID")
            found[name] = page(server) if script == PAGE else asked(client, model, script, *names_of)
    return {name: settled(answer, str(server.repository)) for name, answer in found.items()}


def traces(server, folder):
    """The traces of requests that make others, and what each model has counted."""
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}", network_timeout=20) as client:
        for script in TRACED.values():
            asked(client, "caller", script)
    deadline = time.monotonic() + 20
    while not all((folder / f"trace.json.{number}").exists() for number in range(len(TRACED))):
        assert time.monotonic() < deadline, sorted(path.name for path in folder.iterdir())
        time.sleep(0.05)
    time.sleep(0.5)
    # In no order: a file has its number when its trace is over, which may be after the answer.
    found = sorted((tree(folder, number) for number in range(len(TRACED))), key=json.dumps)
    counts = {}
    for model in ("caller", "add", "odd", "repeat"):
        (one,) = get(server, f"models/{model}/stats")[1]["model_stats"]
        stats = {name: spent["count"] for name, spent in one["inference_stats"].items()}
        counts[model] = {"inference_count": one["inference_count"], "execution_count": one["execution_count"], **stats}
    return {"traces": found, "counts": counts}


def settled(answer, repository):
    """Without the folder of this run."""
    if isinstance(answer, list):
        return [line.replace(repository, "REPOSITORY") for line in answer]
    return answer.replace(repository, "REPOSITORY")


@pytest.fixture(scope="module", params=["none", "process"])
def servers_of(tmp_path_factory, request):
    """This project's answers, part by part, of models in the server's process and in their own."""
    found = {}
    options = (*OPTIONS, f"--backend-config=python,isolation={request.param}")

    def of(part):
        if part not in found:
            with running_despina(MODELS, tmp_path_factory.mktemp(part), options) as server:
                found[part] = answers(part, server)
        return found[part]

    return of


RECORDED = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
CASES = [(part, name) for part, found in RECORDED.items() for name in found]


@pytest.mark.parametrize(("part", "name"), CASES, ids=[f"{part}: {name}" for part, name in CASES])
def test_models_hear_what_the_reference_server_says(part, name, servers_of):
    """Goal: the same answers, in the same words, inside of a model; what differs is listed with its reason."""
    if f"{part}: {name}" in KNOWN_DIFFERENCES:
        assert servers_of(part)[name] != RECORDED[part][name], "it does not differ any more"
    else:
        assert servers_of(part)[name] == RECORDED[part][name]


def test_traces_and_counts_equal_the_reference_servers(tmp_path):
    """Goal: calls are children of the request whose trace they were given, and are counted like any other request."""
    recorded = json.loads(GOLDEN_TRACES.read_text())

    def ask(folder):
        with running_despina(MODELS, folder, (*OPTIONS, *trace_options(folder))) as server:
            return traces(server, folder)

    said = asked_again(ask, recorded, tmp_path)  # the files are read when they should be whole
    assert said["counts"] == recorded["counts"]
    assert said["traces"] == recorded["traces"]


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
@pytest.mark.parametrize("part", [part for part in RECORDED if part != "metrics"])
def test_records_are_what_the_reference_server_says(part):
    """Goal: the recorded answers are the reference server's. Method: ask it again, and again for what differs: it dies
    of some of this now and then. But for metrics, where each case wants a server of its own."""
    differing = {name for name in RECORDED[part] if f"{part}: {name}" not in KNOWN_DIFFERENCES}
    for _ in range(ASKED_AGAIN):
        said = asked_of_reference(part)
        differing = {name for name in differing if said[name] != RECORDED[part][name] and not is_dead(said[name])}
        if not differing:
            break
    assert differing == set()


ASKED_AGAIN = 3
TRIES = 4
"""Of recording, until it lives to the end."""


def is_dead(answer):
    return any(word in answer for word in ("connection closed", "refused", "reset", "Remote end", "timed out"))


def asked_of_reference(part, names=()):
    with tempfile.TemporaryDirectory() as folder, running_reference(MODELS, Path(folder), OPTIONS) as server:
        return answers(part, server, names)


def recorded(part, names=()):
    """The reference server's answers, of one that has lived to the end."""
    for _ in range(TRIES):
        found = asked_of_reference(part, names)
        if not any(is_dead(answer) for answer in found.values()):
            return found
    return dict.fromkeys(found, "it dies")


def main(*parts):
    """Records."""
    if not parts or "traces" in parts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with running_reference(MODELS, folder, (*OPTIONS, *trace_options(folder))) as server:
                GOLDEN_TRACES.write_text(json.dumps(traces(server, folder), indent=1) + "\n")
    found = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for part in [part for part in parts or PARTS if part in PARTS]:
        if part == "metrics":  # of a server for each
            found[part] = {name: recorded(part, (name,))[name] for name in METRICS}
        else:
            found[part] = recorded(part)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
