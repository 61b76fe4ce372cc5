"""What the C API costs, native_batch.py what native backends do: CPU microseconds a request, identity of 1 KiB, and of
1 to 4 KiB where each request is another.

python tests/bench/capi.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from despina.native.loading import built_folder

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))
from tests.capi.compiling import CC, PROGRAMS  # noqa: E402
from tests.native.conftest import SOURCES, compile_plugin  # noqa: E402

CONFIG = """backend: "{}" max_batch_size: 256 dynamic_batching {{}}
input [ {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 256 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 256 ] }} ]
"""
PLAIN = """
from despina.schema.tensor import Tensor

class Plain:
    name, preferred_kind, movable = "plain", None, True

    def config_summary(self):
        return ""

    def open_model(self, context):
        self.config = context.config
        return self

    def open_instance(self, instance):
        return self

    def execute(self, batch):
        for job in batch.jobs:
            given = job.request.inputs["INPUT0"]
            job.respond([Tensor("OUTPUT0", given.datatype, given.shape, given.wire)])

    def close(self):
        pass
"""
"""The cheapest backend: what is left is the door and the engine."""


def write_models(folder: Path) -> None:
    """Three of each."""
    model = CHECKOUT / "tests" / "capi" / "models" / "identity" / "1" / "model.py"
    for name, backend in (("plain", "plain"), ("native", "identity"), ("python", "python")):
        for ending in ("", "_2", "_3"):
            version = folder / f"{name}{ending}" / "1"
            version.mkdir(parents=True)
            (version.parent / "config.pbtxt").write_text(CONFIG.format(backend))
            if backend == "python":
                (version / "model.py").write_text(model.read_text())


def write_backend(folder: Path) -> None:
    """A package that has the plain backend, for who has the folder on its path."""
    facts = folder / "plain-1.dist-info"
    facts.mkdir(parents=True)
    (folder / "plain.py").write_text(PLAIN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[despina.backends]\nplain = plain:Plain\n")


def from_a_program(folder: Path) -> None:
    built = built_folder()
    command = [*CC, "-O2", "-std=c11", "-D_GNU_SOURCE", f"-I{built / 'include'}", f"-I{PROGRAMS}"]
    libraries = [f"-L{built / 'lib'}", "-ltritonserver", f"-Wl,-rpath,{built / 'lib'}", "-lpthread"]
    program = str(folder / "capi")
    subprocess.run([*command, str(Path(__file__).with_name("capi.c")), "-o", program, *libraries], check=True)
    environment = {**os.environ, "PYTHONPATH": str(folder / "packages")}
    for model in ("plain", "python", "native"):
        command = [program, str(folder / "models"), str(folder / "backends"), model]
        subprocess.run(command, check=True, env=environment)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder / "models")
        write_backend(folder / "packages")
        include = built_folder() / "include"
        compile_plugin(SOURCES / "identity.cc", folder / "backends" / "identity" / "libtriton_identity.so", include)
        from_a_program(folder)


if __name__ == "__main__":
    main()
