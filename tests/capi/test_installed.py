"""A C program against the library as a wheel brings it: in an environment, with no checkout and no cache near."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.capi.compiling import CC, FLAGS, MODELS, PROGRAMS


@pytest.fixture
def environment(native, distributions, tmp_path):
    """A virtual environment with the wheel unpacked in it, and its dependencies lent from this one."""
    (wheel,) = distributions.glob("*.whl")
    version = f"python3.{sys.version_info.minor}"
    packages = tmp_path / "environment" / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib"))
    program = tmp_path / "environment" / "bin" / "python"
    program.parent.mkdir()
    program.symlink_to(Path(sys.executable).resolve())
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), tmp_path / "environment")
    return packages


def test_a_program_runs_on_an_installed_wheel(environment, run_program, tmp_path):
    """Goal: the library finds its environment's Python by its own place, and the package in it."""
    built = environment / "despina" / "native" / "built"
    program = tmp_path / "infer"
    libraries = [f"-L{built / 'lib'}", "-ltritonserver", f"-Wl,-rpath,{built / 'lib'}", "-lpthread"]
    source = str(PROGRAMS / "infer.c")
    subprocess.run([*CC, *FLAGS, source, f"-I{built / 'include'}", "-o", str(program), *libraries], check=True)
    run_program(program, MODELS)
