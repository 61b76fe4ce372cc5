"""The GPU checks on a machine without a GPU."""

import subprocess
import sys
from pathlib import Path

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
    assert check.shown("no memory") == "no memory |"
