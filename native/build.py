"""Builds the library, the extension module, the headers and the pkg-config file with the machine's C++ compiler.

The standard library is all that it needs: it runs within the build of a wheel, before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from .table.headers import write_headers
from .table.mechanical import write_mechanical

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES = Path(__file__).parent
LIBRARY = "libtritonserver.so"
EXTENSION = "_native.abi3.so"
SANITIZE = "DESPINA_NATIVE_SANITIZE"
"""Environment variable: `address`, `thread`, or nothing."""

_OLDEST_PYTHON = "0x030B0000"
_PKG_CONFIG = """\
prefix=${{pcfiledir}}/..
includedir=${{prefix}}/include
libdir=${{prefix}}/lib

Name: tritonserver
Description: The inference server Despina as a library with Triton's C API
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -ltritonserver -Wl,-rpath,${{libdir}}
"""


class CannotBuild(Exception):
    """What is missing, or what the compiler said."""


def compiler() -> list[str]:
    """The C++ compiler's command: $CXX, else c++ or g++. Raises CannotBuild."""
    given = os.environ.get("CXX")
    command = shlex.split(given) if given else [next(filter(shutil.which, ("c++", "g++")), "c++")]
    if shutil.which(command[0]) is None:
        raise CannotBuild(f"no C++ compiler '{command[0]}' on the PATH (install g++, or set CXX)")
    return command


def python_headers() -> str:
    """The folder of Python.h. Raises CannotBuild."""
    folder = sysconfig.get_path("include")
    if not Path(folder, "Python.h").is_file():
        raise CannotBuild(f"no Python.h in {folder} (install Python's headers: python3-dev)")
    return folder


def fingerprint() -> str:
    """Of everything that decides what is built."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        if path.suffix in {".cc", ".h", ".map", ".py", ".tsv"}:
            digest.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    for fact in (sys.prefix, sysconfig.get_platform(), *compiler(), os.environ.get(SANITIZE, "")):
        digest.update(fact.encode() + b"\0")
    return digest.hexdigest()[:16]


def build(target: Path, *, version: str, for_this_python: bool) -> None:
    """Makes `target` with include/, lib/ and pkgconfig/. Raises CannotBuild, and leaves nothing then.

    `for_this_python` notes which interpreter the library belongs to, where it does not lie within its environment.
    """
    command, headers = compiler(), python_headers()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, "made")
        library = made / "lib"
        library.mkdir(parents=True)
        write_headers(made / "include")
        write_mechanical(Path(folder))
        _compile(Path(folder), made, command, headers)
        (made / "pkgconfig").mkdir()
        (made / "pkgconfig" / "tritonserver.pc").write_text(_PKG_CONFIG.format(version=version), encoding="utf-8")
        if for_this_python:
            (library / "python.txt").write_text(
                f"program = {sys.executable}\nlibrary = {_python_library()}\n", encoding="utf-8"
            )
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else somebody else was faster, with the same
                raise


def _compile(folder: Path, made: Path, command: Sequence[str], headers: str) -> None:
    sanitizer = os.environ.get(SANITIZE, "")
    extra = [f"-fsanitize={sanitizer}", "-g", "-fno-omit-frame-pointer"] if sanitizer else []
    static = [] if sanitizer else ["-static-libstdc++", "-static-libgcc"]
    flags = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-missing-field-initializers"]
    flags += [*extra, f"-I{SOURCES}", f"-I{folder}", f"-I{made / 'include'}"]
    python = [f"-DPy_LIMITED_API={_OLDEST_PYTHON}", f"-I{headers}"]
    objects = {name: folder / f"{name}.o" for name in ("library", "stubs", "extension")}
    work = [
        [*flags, "-c", str(SOURCES / "library.cc"), "-o", str(objects["library"])],
        [*flags, "-O0", "-Wno-unused-parameter", "-c", str(folder / "stubs.cc"), "-o", str(objects["stubs"])],
        [*flags, *python, "-c", str(SOURCES / "extension.cc"), "-o", str(objects["extension"])],
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        list(threads.map(lambda arguments: _run([*command, *arguments]), work))
    library = made / "lib"
    shared = [*command, "-shared", *extra, *static, "-s" if not sanitizer else "-g"]
    names = [f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={SOURCES / 'exports.map'}"]
    parts = [str(objects["library"]), str(objects["stubs"])]
    _run([*shared, *parts, "-o", str(library / LIBRARY), *names, "-lpthread", "-ldl"])
    found = [f"-L{library}", "-ltritonserver", "-Wl,-rpath,$ORIGIN"]
    _run([*shared, str(objects["extension"]), "-o", str(library / EXTENSION), *found])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise CannotBuild(f"{shlex.join(command)}\n{done.stdout}")


def _python_library() -> str:
    """libpython of this interpreter: with its folder where it lies there, else for the system's loader to find."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = sysconfig.get_config_var("INSTSONAME") or f"libpython{version}.so.1.0"
    if not name.startswith("libpython") or ".so" not in name:
        name = f"libpython{version}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR") or "", str(Path(sys.base_prefix, "lib"))):
        if Path(folder, name).is_file():
            return str(Path(folder, name))
    return name
