"""perf_analyzer, the field's own load generator, measures this server: over every way in, without an error.

`DESPINA_PERF_ANALYZER` names the program (or a script that runs it); beside the checkout it is found without.
"""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.servers import running_despina
from tests.conformance.test_sequences import sequence_models
from tests.conformance.wire import wire_models

RUN_S_MAX = 120
"""For one measurement; the script may have to install the program first."""


@pytest.fixture(scope="module")
def analyzer():
    named = os.environ.get("DESPINA_PERF_ANALYZER")
    script = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "tools" / "perf_analyzer.sh"
    if not script.is_file():
        pytest.skip("no perf_analyzer: DESPINA_PERF_ANALYZER names the script that runs it")
    return [str(script)] if os.access(script, os.X_OK) else ["bash", str(script)]


@pytest.fixture(scope="module")
def wire_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perf")
    with running_despina(wire_models(folder), folder) as running:
        yield running


WAYS = {
    "http": ("http", "simple", []),
    "http async": ("http", "simple", ["--async"]),
    "grpc": ("grpc", "simple", []),
    "grpc async": ("grpc", "simple", ["--async"]),
    "grpc streaming": ("grpc", "simple", ["--streaming"]),
    "grpc streaming, decoupled": ("grpc", "count", ["--streaming"]),
    "http, shared memory": ("http", "simple", ["--shared-memory=system"]),
    "grpc, shared memory": ("grpc", "simple", ["--shared-memory=system"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_perf_analyzer(analyzer, wire_server, tmp_path, way):
    """Two concurrent requests for a fixed number: it ends well, has measured a rate, and no request failed."""
    protocol, model, options = WAYS[way]
    measure(analyzer, wire_server, tmp_path, protocol, model, options)


@pytest.fixture(scope="module")
def sequence_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perf_sequences")
    with running_despina(sequence_models(folder), folder) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "options"), [("http", []), ("grpc", ["--streaming"])])
@pytest.mark.parametrize("model", ["direct", "oldest"])
def test_perf_analyzer_with_sequences(analyzer, sequence_server, tmp_path, model, protocol, options):
    """Sequences of some eight requests, as it makes them: the same."""
    measure(analyzer, sequence_server, tmp_path, protocol, model, [*options, "--sequence-length=8"])


def measure(analyzer, server, tmp_path, protocol, model, options):
    port = server.http_port if protocol == "http" else server.grpc_port
    report = tmp_path / "report.csv"
    batch = ["-b1"] if model == "simple" else []
    command = [*analyzer, "-m", model, "-i", protocol, "-u", f"127.0.0.1:{port}", "-f", str(report), *batch, *options]
    command += ["--concurrency-range=2", "--measurement-mode=count_windows", "--measurement-request-count=50"]
    command += ["--stability-percentage=999", "--max-trials=4", "--measurement-interval=300", "--input-data=zero"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert "Failed" not in shown, shown
    assert "error" not in shown.lower(), shown
    with report.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows, shown
    assert all(float(row["Inferences/Second"]) > 0 for row in rows)
