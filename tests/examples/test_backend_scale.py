"""The example of a backend in a package of its own, installed as an author's users would, tested and served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conformance.servers import running_despina

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "backend_scale"
LINES_MAX = 60


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package in a folder of its own, from its wheel; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder), str(EXAMPLE)], check=True, timeout=120)
    return folder


def test_a_backend_fits_on_a_page():
    """Goal: whoever writes one sees all of it."""
    assert len((EXAMPLE / "despina_scale.py").read_text().splitlines()) <= LINES_MAX


def test_it_passes_the_suite_where_it_is_installed(installed, tmp_path):
    """Goal: its own tests, copied away from this checkout's settings, run with pytest and nothing else of ours."""
    tests = tmp_path / "test_despina_scale.py"
    tests.write_text((EXAMPLE / tests.name).read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:trio", str(tests)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15 passed" in done.stdout


def test_it_is_served(installed, tmp_path, monkeypatch):
    """Goal: a server finds the backend by its entry point, completes the model, and answers over HTTP."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    (tmp_path / "models" / "triple" / "1").mkdir(parents=True)
    (tmp_path / "models" / "triple" / "1" / "scale.json").write_text('{"factor": 3}')
    (tmp_path / "models" / "triple" / "config.pbtxt").write_text('backend: "scale"')
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}
    with running_despina(tmp_path / "models", tmp_path) as server:
        url = f"http://127.0.0.1:{server.http_port}/v2/models/triple/infer"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=20) as answer:
            (output,) = json.load(answer)["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("y", [2, 2], [3, 6, 9, 12])
