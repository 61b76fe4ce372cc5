"""Makes `generated/` from `proto/`. Run after a change of a .proto file: `python schema/wire/generate.py`.

Needs grpcio-tools and betterproto2-compiler (the `test` extra); the package at run time needs neither.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
PROTO = _HERE / "proto"
GENERATED = _HERE / "generated"
DESCRIPTORS = "descriptors.binpb"
"""In `GENERATED`: what reflection tells clients about `PROTO`, a serialised FileDescriptorSet (see descriptors.py)."""

_PLUGIN = "protoc-gen-python_betterproto2"
# Messages and the service's base class; clients use tritonclient or their own.
_OPTIONS = ("server_generation=async", "client_generation=none")
_BASE = "from betterproto2 import grpclib as betterproto2_grpclib"


def generate(target: Path) -> None:
    """Writes the generated package into the empty folder `target`. Raises RuntimeError with the compiler's words."""
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={PROTO}",
        f"--plugin={_PLUGIN}={_plugin()}",
        f"--python_betterproto2_out={target}",
        *(f"--python_betterproto2_opt={option}" for option in _OPTIONS),
        f"--descriptor_set_out={target / DESCRIPTORS}",
        *(str(path) for path in sorted(PROTO.glob("*.proto"))),
    ]
    # The plugin formats its output with ruff, which it looks for on the path and which would take over the settings of
    # the folder that it runs in: a bare one has none, so the output is the same everywhere.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, cwd=target, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"protoc failed:\n{done.stderr}")
    for module in target.rglob("__init__.py"):
        module.write_text(_without_grpclib_server(module.read_text()))
    # An ordinary package, typed as the whole is.
    (target / "__init__.py").touch()
    (target / "py.typed").unlink(missing_ok=True)


def _without_grpclib_server(text: str) -> str:
    """The same module on our own base of services (see service.py)."""
    pool = re.search(r"^from (\.+)message_pool import", text, re.MULTILINE)
    if pool is None or _BASE not in text:
        return text
    lines = [line for line in text.splitlines(keepends=True) if line.strip() != _BASE]
    at = next(index for index, line in enumerate(lines) if "message_pool import" in line)
    lines.insert(at, f"from {pool[1]}.service import ServiceBase\n")
    return "".join(lines).replace("betterproto2_grpclib.ServiceBase", "ServiceBase")


def _plugin() -> str:
    """The compiler plugin of this interpreter's environment, whether or not that is on the path."""
    beside = Path(sys.executable).parent / _PLUGIN
    found = str(beside) if beside.exists() else shutil.which(_PLUGIN)
    if found is None:
        raise RuntimeError(f"{_PLUGIN} is not installed beside {sys.executable}; install the 'test' extra")
    return found


def main() -> None:
    """Replaces `generated/`, or leaves it as it is when the compiler fails."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "generated"
        fresh.mkdir()
        generate(fresh)
        shutil.rmtree(GENERATED)
        shutil.copytree(fresh, GENERATED)


if __name__ == "__main__":
    main()
