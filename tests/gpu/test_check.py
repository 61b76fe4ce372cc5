"""The GPU checks on a machine without a GPU."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.gpu import check


@pytest.mark.skipif(not check.why_not(), reason="there is a GPU: `make gpu` is the test")
def test_without_a_gpu_everything_is_skipped_by_name():
    """Goal: it says what was not checked and why, and that is no failure."""
    done = subprocess.run(
        [sys.executable, str(Path(check.__file__))], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[1].rstrip(":") for line in lines] == [
        "server_starts",
        "gauges",
        "instances_on_the_device",
        "torch_model",
        "shared_memory_http",
        "shared_memory_grpc",
        "faults",
        "client_that_dies",
        "onnx_provider",
    ]
    assert all(line.startswith("skipped ") and line.endswith(check.why_not()) for line in lines)


def test_figures_read_well():
    """Goal: a figure that could not be had is said in its place."""
    assert check.shown((1234.5, 67.8)) == "1,234 | 68"
    assert check.shown((0.47, 305_000.0)) == "0.5 | 305,000"
    assert check.shown("no memory") == "no memory |"


def test_a_check_that_hangs_fails_in_its_time(monkeypatch, tmp_path, capsys):
    """Goal: no check outlasts its time, and what the server said last stands beside the failure."""
    monkeypatch.setattr(check, "CHECK_SECONDS_MAX", 1)
    log = tmp_path / "server.log"
    log.write_text("the last words")

    def hangs(bench):
        time.sleep(60)

    assert check.run(hangs, SimpleNamespace(log=log)) == "FAILED"
    printed = capsys.readouterr().out
    assert printed.startswith("FAILED   hangs (1.")
    assert "TookTooLong: more than 1 s" in printed
    assert "the last words" in printed
