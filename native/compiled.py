"""The modules on a request's way as machine code: mypyc compiles them, from the sources that are interpreted elsewhere.

A wheel has them beside their sources, and Python prefers them; a checkout has the sources alone, so what is edited is
what runs. Compiled code holds its types: where a class or a function is told one and gets another, it raises TypeError.
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

from .build import CannotBuild, python_headers

MODULES = [
    "schema/encoding",
    "schema/infer_head",
    "schema/inference",
    "schema/json_tensor",
    "schema/json_text",
    "schema/kserve_grpc",
    "schema/kserve_grpc_parameters",
    "schema/kserve_grpc_plain",
    "schema/kserve_http",
    "schema/kserve_http_reply",
    "schema/memo",
    "schema/shared_memory",
    "schema/tensor",
    "schema/text",
    "schema/texts",
    "schema/wire/codec",
    "schema/wire/varint",
    "engine/execute/ahead",
    "engine/execute/company",
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
    "engine/model/version",
    "engine/observe/latencies",
    "engine/observe/statistics",
    "engine/port/doors",
    "engine/port/mutex",
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
    "backends/python/arguments",
    "backends/python/decoupled",
    "backends/python/instance",
    "backends/python/isolated/answer_forms",
    "backends/python/isolated/answering",
    "backends/python/isolated/frames",
    "backends/python/isolated/instance",
    "backends/python/isolated/late",
    "backends/python/isolated/line",
    "backends/python/isolated/link",
    "backends/python/isolated/listening",
    "backends/python/isolated/received",
    "backends/python/isolated/saying",
    "backends/python/isolated/segments",
    "backends/python/isolated/serving",
    "backends/python/request",
    "backends/python/response",
    "backends/python/tensor",
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
    "frontends/http/request/verbose",
]
"""One library, in which they call each other without a detour."""
LIBRARY = "despina.compiled"
_PACKAGES = ("schema", "engine", "native", "backends", "frontends")


def is_compiled() -> bool:
    """Whether the package that runs here has them."""
    return importlib.util.find_spec(f"{LIBRARY}__mypyc") is not None


def compile_modules(package: Path, target: Path) -> list[Path]:
    """Compiles `package`, a checkout, for this Python. The extension modules, which lie in `target` as in the package.
    Raises CannotBuild."""
    _look_for_compilers()
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "despina")
        for name in _PACKAGES:
            shutil.copytree(package / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for file in package.glob("*.py"):
            shutil.copy(file, sources)
        files = [f"despina/{module}.py" for module in MODULES]
        script = Path(__file__).with_name("compiling.py")
        command = [sys.executable, str(script), LIBRARY, str(target.resolve()), *files]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    if done.returncode:
        raise CannotBuild(done.stdout)
    return sorted(target.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))


def _look_for_compilers() -> None:
    """Raises CannotBuild where one is missing."""
    for name in ("mypyc", "setuptools"):
        if importlib.util.find_spec(name) is None:
            raise CannotBuild(f"no {name} (pip install 'despina[compile]')")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise CannotBuild(f"no C compiler '{compiler}' on the PATH (install gcc, or set CC)")
    python_headers()
