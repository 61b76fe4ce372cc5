"""C programs against the library: compiled with the machine's own compiler, run as programs of their own."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import pytest

from tests.capi.compiling import CC, FLAGS, PROGRAMS, SANITIZERS


@pytest.fixture(scope="session")
def native():
    """The folder of the built library. Skips where it cannot be built: the package works without it."""
    from despina.native.loading import built_folder
    from despina.schema.fault import Unavailable

    if shutil.which(CC[0]) is None:
        pytest.skip(f"no C compiler '{CC[0]}' on the PATH")
    try:
        return built_folder()
    except Unavailable as fault:
        pytest.skip(fault.message)


@pytest.fixture(scope="session")
def flags(native):
    """What programs are compiled and linked with, as the package says it."""
    command = [sys.executable, "-m", "despina.frontends.capi", "--cflags", "--libs"]
    return shlex.split(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout)


@pytest.fixture
def compiled(flags, tmp_path):
    """Compiles programs/NAME.c, warnings being errors, and gives the program's path."""

    def compile_program(name, extra=()):
        program = tmp_path / name
        command = [*CC, *FLAGS, str(PROGRAMS / f"{name}.c"), "-o", str(program), *flags, "-lpthread", "-ldl", *extra]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
        return program

    return compile_program


@pytest.fixture
def run_program():
    """Runs a program without any environment, and gives its output if it ends well, as the programs say at last."""

    def run(program, *arguments):
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            env=SANITIZERS,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout
        assert done.stdout.splitlines()[-1] == "done"
        return done.stdout

    return run
