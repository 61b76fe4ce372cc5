"""What the C API and native backends cost: CPU microseconds a request, identity of 1 KiB.

python tests/bench/capi.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from despina.backends.native.instance import NativeInstance
from despina.backends.native.shapes import Shapes
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.native.loading import built_folder, extension
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable

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
SECONDS = 1.0
BOOK: Any = SimpleNamespace(version_text="1", defers=False)


def write_models(folder: Path) -> None:
    for name, backend in (("plain", "plain"), ("native", "identity"), ("python", "python")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(backend))
    model = CHECKOUT / "tests" / "capi" / "models" / "identity" / "1" / "model.py"
    (folder / "python" / "1" / "model.py").write_text(model.read_text())


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


def execute(instance: NativeInstance, request: InferenceRequest, size: int) -> None:
    jobs = [Job(request, None) for _ in range(size)]
    for job in jobs:
        job.ledger = BOOK
    instance.execute(Batch(jobs, size, "eager"))
    assert all(job.response is not None for job in jobs)


def print_cost(what: str, requests: int, call: Callable[[], object]) -> None:
    count, began, used = 0, time.monotonic(), time.process_time()
    while time.monotonic() - began < SECONDS:
        call()
        count += requests
    print(f"{what}: {(time.process_time() - used) / count * 1e6:.1f} us a request")


def of_a_batch(folder: Path) -> None:
    """What a batch costs the thread of a native instance: the one call into the library, and with what is Python's of
    it, from jobs to their responses. Nothing else of the engine."""
    native = extension()
    library = folder / "backends" / "identity" / "libtriton_identity.so"
    model, _ = native.model_open(str(library), "identity", str(library.parent), "{}", "m", 1, "/", "{}", False, None)
    native.model_settle(model, "{}", False, ["OUTPUT0"], [])
    address, _ = native.instance_open(model, "m_0", 1, 0, "{}")
    instance = NativeInstance(native, address, "m_0", Shapes(ModelConfig()), decoupled=False, on_close=lambda: None)
    data = bytes(1024)
    request = InferenceRequest("m", {"INPUT0": Tensor("INPUT0", "FP32", (1, 256), data)}, outputs=["OUTPUT0"])
    for size in (1, 8, 32):
        given = [(tag, "", 0, 0, 0, [("INPUT0", "FP32", (1, 256), data)], ["OUTPUT0"], None) for tag in range(size)]
        print_cost(f"native, batch of {size}, the call", size, partial(native.instance_execute, address, given))
        print_cost(f"native, batch of {size}, jobs to responses", size, partial(execute, instance, request, size))
    instance.close()
    native.model_close(model)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder / "models")
        write_backend(folder / "packages")
        include = built_folder() / "include"
        compile_plugin(SOURCES / "identity.cc", folder / "backends" / "identity" / "libtriton_identity.so", include)
        of_a_batch(folder)
        sys.stdout.flush()
        from_a_program(folder)


if __name__ == "__main__":
    main()
