"""The library and the headers follow the table of the C API."""

from __future__ import annotations

import subprocess

import pytest
from despina.native.table.api import HEADERS, exported, functions, values

from tests.capi.compiling import CC, FLAGS

UNSUPPORTED_MAX = 0
"""Functions of the table that nothing defines: they answer `is not supported`. This number only goes down."""


def symbols(native):
    """Name -> kind, of what the library defines for others: T as it is, W where nothing took a stub's place."""
    command = ["nm", "-D", "--defined-only", str(native / "lib" / "libtritonserver.so")]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    return {name: kind for _, kind, name in (line.split() for line in listed.splitlines())}


def test_the_library_has_the_functions_of_the_table_and_no_others(native):
    """Goal: what a program links with is just what the headers promise; one name more is for our extension module."""
    assert set(symbols(native)) - {"despina_bridge"} == exported()


def test_functions_that_are_not_supported_become_fewer(native):
    """Goal: everybody who adds a function lowers the number above."""
    stubs = sorted(name for name, kind in symbols(native).items() if kind == "W")
    assert len(stubs) == UNSUPPORTED_MAX, stubs


def test_the_library_needs_no_python_and_no_compilers_runtime(native):
    """Goal: a program without Python can load it, wherever it is brought to."""
    command = ["readelf", "-d", str(native / "lib" / "libtritonserver.so")]
    needed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    names = [line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line]
    assert not [name for name in names if name.startswith(("libpython", "libstdc++", "libgcc"))]


@pytest.mark.parametrize("language", ["c", "c++"])
def test_every_header_stands_alone_in_both_languages(native, language, tmp_path):
    """Goal: each header compiles by itself, without a warning; every number has the value of the table."""
    suffix, standard = {"c": ("c", "-std=c11"), "c++": ("cc", "-std=c++17")}[language]
    assertion = {"c": "_Static_assert", "c++": "static_assert"}[language]
    for header in HEADERS:
        checks = [
            f'{assertion}({value.name} == {value.value}, "{value.name}");'
            for value in values()
            if value.header == header
        ]
        source = tmp_path / f"{header}.{suffix}"
        source.write_text("\n".join([f'#include "triton/core/{header}.h"', *checks, ""]))
        command = [CC[0], *(flag for flag in FLAGS if not flag.startswith("-std")), standard, "-pedantic"]
        command += [f"-I{native / 'include'}", "-fsyntax-only", str(source)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_the_options_table_knows_every_setter():
    """Goal: no setter of the library is noted that nobody can read."""
    from despina.frontends.capi.options import KNOWN

    prefixes = ("TRITONSERVER_ServerOptionsSet", "TRITONSERVER_ServerOptionsAdd")
    setters = {function.name for function in functions() if function.name.startswith(prefixes)}
    assert {f"TRITONSERVER_ServerOptions{name}" for name in KNOWN} == setters
