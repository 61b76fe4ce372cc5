"""schemathesis against a small repository: every operation of `/openapi.json` with requests right and wrong.

The long form takes more examples for each operation: DESPINA_SCHEMATHESIS_EXAMPLES=500, see `make api`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conformance.servers import running_despina

HERE = Path(__file__).resolve().parent
EXAMPLES = int(os.environ.get("DESPINA_SCHEMATHESIS_EXAMPLES", "8"))
SECONDS_MAX = 60 + EXAMPLES * 10


@pytest.fixture
def models(checkout, tmp_path) -> Path:
    """Two models, the second to be loaded and unloaded."""
    source = checkout / "examples" / "models" / "addsub"
    for name in ("addsub", "other"):
        shutil.copytree(source, tmp_path / "models" / name)
    config = tmp_path / "models" / "other" / "config.pbtxt"
    config.write_text(config.read_text().replace('"addsub"', '"other"'))
    return tmp_path / "models"


def test_schemathesis_finds_nothing(checkout, models, tmp_path):
    """Goal: answers are as the document says, whatever is asked. Method: generated requests, from a fixed seed."""
    pytest.importorskip("schemathesis")
    command = [str(Path(sys.executable).parent / "schemathesis")]
    command += ["--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += ["--seed", "1", "--max-examples", str(EXAMPLES), "--generation-database=none", "--no-color"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.conformance.schemathesis_checks"}
    environment["PYTHONPATH"] = str(checkout)
    options = ("--model-control-mode=explicit", "--load-model=*")
    with running_despina(models, tmp_path, options) as server:
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{server.http_port}/openapi.json"],
            cwd=tmp_path,  # it writes beside where it runs
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS_MAX,
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/models/addsub/stats") as answer:
            statistics = json.load(answer)["model_stats"][0]
    assert done.returncode == 0, done.stdout[-20000:]
    assert "Traceback" not in server.log.read_text()
    # At least the document's own examples, with and without a version, by each of the three ways to infer.
    assert statistics["inference_stats"]["success"]["count"] >= 6
