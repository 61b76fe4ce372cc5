"""The compiled modules do what their sources do: tests of doors and engine, run once more on the package as a wheel has
it. Tests that replace a part of a module, or derive from a class of one, are about sources: they are marked
`interpreted`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile

import pytest

PYTHON = (
    "python",
    "python_arguments",
    "python_memory",
    "python_streams",
    "isolated",
    "isolated_arrays",
    "isolated_frames",
    "isolated_received",
)
SUITES = {
    "http": ["tests/unit/http", "tests/conformance/test_wire_http1.py"],
    "grpc": ["tests/unit/grpc", "tests/conformance/test_wire_http2.py"],
    "engine": ["tests/unit/engine"],
    "schema": ["tests/unit/schema"],
    "backends": ["tests/unit/backends/suite", "tests/conformance/test_python_models.py"],
    "python": [f"tests/unit/backends/test_{name}.py" for name in PYTHON],
    "clients": [f"tests/conformance/test_{name}.py" for name in ("clients", "aio_clients", "streaming", "ensembles")],
}
LEAST_PASSED = 40
PLACE = "import despina.schema.tensor as module; print(module.__file__)"


@pytest.fixture(scope="module")
def environment(distributions, tmp_path_factory):
    """Of a process that finds the wheel's package."""
    (wheel,) = distributions.glob("*.whl")
    if "py3-none-any" in wheel.name:
        pytest.skip("no compiler here: the wheel has no compiled modules")
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**environment, "PYTHONPATH": str(folder)}


def test_compiled_modules_come_before_their_sources(environment):
    """Goal: with both beside each other, what runs is compiled."""
    command = [sys.executable, "-c", PLACE]
    place = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
    assert place.strip().endswith(f"tensor{sysconfig.get_config_var('EXT_SUFFIX')}")
    assert environment["PYTHONPATH"] in place


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_what_holds_for_sources_holds_for_them(environment, checkout, suite):
    """Goal: no test of what a part does tells one from the other."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not interpreted and not records"]
    command += SUITES[suite]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > LEAST_PASSED


@pytest.mark.parametrize(
    ("variable", "told"), [("CC", "no C compiler '/nowhere/cc' on the PATH"), ("CXX", "no C++ compiler '/nowhere/cc'")]
)
def test_a_wheel_that_must_be_compiled_and_cannot_be(checkout, tmp_path, variable, told):
    """Goal: who says that he wants the compiled parts is told what is missing for them, before anything is compiled."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    environment = {**os.environ, "DESPINA_REQUIRE_NATIVE": "1", variable: "/nowhere/cc"}
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
