"""The modules on a request's way as machine code: mypyc compiles them, from the sources that are interpreted elsewhere.

A wheel has them beside their sources, and Python prefers them; a checkout has the sources alone, so what is edited is
what runs. Compiled code holds its types: where a class or a function is told one and gets another, it raises TypeError.

    python native/compiled.py SOURCES TARGET        a folder that has `despina`, and where the extension modules go
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

MODULES = [
    "schema/infer_head",
    "schema/inference",
    "schema/kserve_grpc",
    "schema/kserve_grpc_parameters",
    "schema/kserve_grpc_plain",
    "schema/kserve_http",
    "schema/kserve_http_reply",
    "schema/memo",
    "schema/shared_memory",
    "schema/tensor",
    "schema/texts",
    "schema/wire/codec",
    "schema/wire/varint",
    "engine/execute/ahead",
    "engine/execute/cost",
    "engine/execute/feed",
    "engine/execute/inline",
    "engine/execute/limited",
    "engine/execute/placement",
    "engine/execute/task",
    "engine/execute/thread",
    "engine/model/cache/calls",
    "engine/model/ensemble/job",
    "engine/model/ensemble/step_request",
    "engine/observe/latencies",
    "engine/observe/statistics",
    "engine/port/nested_request",
    "engine/request/admission",
    "engine/request/batch",
    "engine/request/job",
    "engine/request/ledger",
    "engine/request/stream",
    "engine/request/together",
    "engine/schedule/dynamic",
    "engine/schedule/levels",
    "engine/schedule/sequence_batch",
    "backends/onnxruntime/bound",
    "backends/onnxruntime/instance",
    "backends/python/isolated/answer_forms",
    "backends/python/isolated/frames",
    "backends/python/isolated/instance",
    "backends/python/isolated/late",
    "backends/python/isolated/line",
    "backends/python/isolated/link",
    "frontends/bulk",
    "frontends/capi/requests",
    "frontends/grpc/connection/carried",
    "frontends/grpc/connection/connection",
    "frontends/grpc/connection/control",
    "frontends/grpc/connection/limits",
    "frontends/grpc/connection/outlet",
    "frontends/grpc/connection/reader",
    "frontends/grpc/connection/sweep",
    "frontends/grpc/handler/unary_infer",
    "frontends/grpc/request/call",
    "frontends/grpc/request/head",
    "frontends/grpc/request/incoming",
    "frontends/grpc/request/logged",
    "frontends/grpc/request/prompt",
    "frontends/grpc/server",
    "frontends/grpc/wire/constants",
    "frontends/grpc/wire/header_block",
    "frontends/grpc/wire/reply",
    "frontends/http/cloud/infer",
    "frontends/http/cloud/sagemaker",
    "frontends/http/connection/asgi",
    "frontends/http/connection/connection",
    "frontends/http/connection/head",
    "frontends/http/connection/http1_request",
    "frontends/http/connection/intake",
    "frontends/http/connection/listener",
    "frontends/http/connection/outlet",
    "frontends/http/connection/receiver",
    "frontends/http/connection/room",
    "frontends/http/connection/sender",
    "frontends/http/connection/status",
    "frontends/http/handler/handlers",
    "frontends/http/handler/infer",
    "frontends/http/handler/logged",
    "frontends/http/handler/router",
    "frontends/http/handler/traced",
    "frontends/http/request/request",
    "frontends/http/request/stand_in",
]
"""One library, in which they call each other without a detour."""
_PACKAGES = ("schema", "engine", "native", "backends", "frontends")
_NAME = "despina"
_LIBRARY = "despina.compiled"
_MYPY = """\
[mypy]
ignore_missing_imports = True
follow_untyped_imports = False
[mypy-despina.schema.wire.generated.*]
ignore_errors = True
"""


def is_compiled() -> bool:
    """Whether the package that runs here has them."""
    return importlib.util.find_spec(f"{_LIBRARY}__mypyc") is not None


class CannotCompile(Exception):
    """What is missing, or what a compiler said."""


def compile_modules(package: Path, target: Path) -> list[Path]:
    """Compiles `package`, a checkout, for this Python. The extension modules, which lie in `target` as in the package.
    Raises CannotCompile."""
    if missing := _missing():
        raise CannotCompile(missing)
    with tempfile.TemporaryDirectory() as folder:
        for name in _PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(package / name, Path(folder, _NAME, name), ignore=ignored)
        for file in package.glob("*.py"):
            shutil.copy(file, Path(folder, _NAME))
        command = [sys.executable, str(Path(__file__).resolve()), folder, str(target.resolve())]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    if done.returncode:
        raise CannotCompile(done.stdout)
    return sorted(target.rglob("*.so")) + sorted(target.rglob("*.pyd"))


def _missing() -> str:
    """What there must be and is not; empty for nothing."""
    for name in ("mypyc", "setuptools"):
        if importlib.util.find_spec(name) is None:
            return f"no {name} (pip install 'despina[compile]')"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no C compiler '{compiler}' on the PATH (install gcc, or set CC)"
    headers = sysconfig.get_path("include")
    return "" if Path(headers, "Python.h").is_file() else f"no Python.h in {headers} (install python3-dev)"


def _compile(sources: Path, target: Path) -> None:
    """The same in a process of its own, in whose folder the compiler works."""
    from mypyc.build import mypycify
    from setuptools import setup

    config = Path("mypy.ini")
    config.write_text(_MYPY, encoding="utf-8")
    files = [f"{_NAME}/{module}.py" for module in MODULES]
    arguments = ["--config-file", str(config), *files]
    # One file of C for each module takes half the time of one for all, and runs 4 % more instructions.
    extensions = mypycify(arguments, opt_level="2", debug_level="0", multi_file=True, group_name=_LIBRARY)
    for extension in extensions:
        extension.include_dirs.append(f"build/{_NAME}")  # where mypyc writes the header of a library in a package
    setup(
        name=_NAME,
        ext_modules=extensions,
        script_args=["--quiet", "build_ext", "--build-lib", str(target), "--build-temp", str(sources / "build")],
    )


if __name__ == "__main__":
    _compile(Path(sys.argv[1]), Path(sys.argv[2]))
