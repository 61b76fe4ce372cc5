"""The backends of examples/native, compiled once, and engines that have them."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import despina
import pytest
from despina.native.build import SANITIZE, CannotBuild, compiler
from despina.native.loading import built_folder
from despina.schema.fault import Unavailable

from tests.capi.conftest import compiled, flags, native  # noqa: F401  # fixtures of those tests, for these, too

SOURCES = Path(__file__).parents[2] / "examples" / "native"
BACKENDS = ("identity", "countdown", "failing", "late", "adding", "completing", "crashing", "asking")
TENSORS = """
input [ {{ name: "INPUT0" data_type: {0} dims: [ -1 ] }} ]
output [ {{ name: "OUTPUT0" data_type: {0} dims: [ -1 ] }} ]
"""


def compile_plugin(source, target, *include):
    """As a C++ developer would: against the headers, linked with nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    if sanitizer := os.environ.get(SANITIZE):  # as the library: ThreadSanitizer misses locks else
        options += [f"-fsanitize={sanitizer}", "-g", "-fno-omit-frame-pointer"]
    options += [f"-I{folder}" for folder in include]
    subprocess.run([*compiler(), *options, str(source), "-o", str(target), "-lpthread"], check=True, timeout=120)


@pytest.fixture(scope="session")
def include():
    """Where the headers are. Skips where nothing can be compiled."""
    try:
        compiler()
        return built_folder() / "include"
    except (CannotBuild, Unavailable) as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="session")
def backend_directory(include, tmp_path_factory):
    folder = tmp_path_factory.mktemp("backends")

    def compile_backend(name):
        compile_plugin(SOURCES / f"{name}.cc", folder / name / f"libtriton_{name}.so", include)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(compile_backend, BACKENDS))
    return folder


@pytest.fixture
def repository(tmp_path):
    """Writes models: `repository(name, config)`; its `path` is for engines."""

    def write(name, text, version="1"):
        (tmp_path / "models" / name / version).mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name / "config.pbtxt").write_text(text)

    write.path = tmp_path / "models"
    return write


@pytest.fixture
def opened(repository, backend_directory):
    """An engine over the repository, for an `async with` block."""

    def open_engine(**options):
        options = {"model_control_mode": "explicit", "load_model": "*", **options}
        return despina.open_engine(repository.path, backend_directory=str(backend_directory), **options)

    return open_engine
