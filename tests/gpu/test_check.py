"""The GPU checks on a machine without a GPU: what they say, and that none holds up the next."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from despina import blocking
from despina.backends.onnxruntime.providers import providers_for
from despina.schema.pbtxt import parse_config

from tests.gpu import check, engine_checks, machine, models, served, server_checks
from tests.unit.backends import fake_cuda, fake_tensorrt

pytest.importorskip("tritonclient")


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The models of the checks, made for a CPU."""
    write = Path.write_text

    def write_for_cpu(path, text):
        write(path, text.replace("KIND_GPU count: 1 gpus: [0]", "KIND_CPU count: 1"))

    monkeypatch.setattr(Path, "write_text", write_for_cpu)
    monkeypatch.setattr(engine_checks, "free_bytes", lambda: 1)


@pytest.mark.skipif(not machine.why_not(), reason="there is a GPU: `make gpu` is the test")
def test_without_a_gpu_everything_is_skipped_by_name():
    """Goal: it says what was not checked and why, and that is no failure."""
    done = subprocess.run(
        [sys.executable, str(Path(check.__file__))], capture_output=True, text=True, timeout=100, check=True
    )
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[1].rstrip(":") for line in lines] == [one.name for one in check.all_checks()]
    assert all(line.startswith("skipped ") and line.endswith(machine.why_not()) for line in lines)
    assert {"torchscript", "onnx_cuda", "onnx_tensorrt", "tensorrt_plan", "shared_memory_grpc", "figures"} <= {
        one.name for one in check.all_checks()
    }


def child(monkeypatch, script):
    """Checks run by a script of the test's."""
    monkeypatch.setattr(check, "__file__", str(script))


@pytest.mark.parametrize(
    ("body", "verdict", "printed"),
    [
        ("print('         12 µs')", "passed", "12 µs"),
        ("print('torch is not installed'); sys.exit(77)", "skipped", ": torch is not installed"),
        ("1 / 0", "FAILED", "ZeroDivisionError"),
        ("import os; os.abort()", "FAILED", ": exit status -6"),
    ],
)
def test_verdicts(monkeypatch, capsys, tmp_path, body, verdict, printed):
    """Goal: a check's process tells by its status, and what it printed stands below its line; a crash is a failure."""
    script = tmp_path / "one.py"
    script.write_text(f"import sys\n{body}\n")
    child(monkeypatch, script)
    one = check.Check("one", print, needs_server=False)
    assert check.run(one, None, tmp_path / "folder", time.monotonic() + 60) == verdict
    text = capsys.readouterr().out
    assert text.startswith(f"{verdict:7}  one (")
    assert printed in text


def test_a_check_that_hangs_is_killed_with_its_children(monkeypatch, capsys, tmp_path):
    """Goal: no check outlasts its time, nothing of it stays, and what it had said is shown."""
    script = tmp_path / "one.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    child(monkeypatch, script)
    one = check.Check("one", print, needs_server=False, seconds_max=5)
    began = time.monotonic()
    assert check.run(one, None, tmp_path / "folder", began + 60) == "FAILED"
    assert time.monotonic() - began < 20
    text = capsys.readouterr().out
    assert ": more than 5 s" in text
    served.until(lambda: is_gone(int(text.split()[-1])))


def is_gone(pid):
    """Killed, whether or not somebody has been told."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_no_check_begins_when_the_time_for_all_is_over(capsys, tmp_path):
    """Goal: the whole ends in its time, and says what it left out."""
    one = check.Check("one", print, needs_server=False)
    assert check.run(one, None, tmp_path / "folder", time.monotonic()) == "skipped"
    assert ": the time for all is over" in capsys.readouterr().out


def test_the_server_of_the_checks_starts(on_the_cpu, tmp_path, monkeypatch):
    """Goal: the server that the checks ask serves its models, here without a device."""
    monkeypatch.setattr(served, "has", lambda package: False)
    server = served.Server(tmp_path / "server")
    try:
        served.until(server.is_ready)
        module, client = server.served.client("http")
        result = client.infer("echo", [server_checks.given(module, np.zeros(4, np.float32))])
        assert result.as_numpy("ABOUT")[0] == b"CPU 0"
        with pytest.raises(machine.Skipped, match="tensorrt is not installed, or has made none"):
            server_checks.CHECKS["tensorrt_shared_memory"](server.served)
    finally:
        server.close()


def test_the_onnx_file_of_the_checks(on_the_cpu, tmp_path, capsys):
    """Goal: the file that the device is asked to serve is right, and the check does what it says, here on a CPU."""
    models.write_onnx(tmp_path / "m")
    engine_checks.serves(tmp_path, sizes=())
    with blocking.open_engine(tmp_path) as engine:
        assert engine.model("m").config.max_batch_size == models.ROWS_MAX
        engine_checks.check(engine, "IN", "OUT", 2, 1000)


@pytest.fixture
def stand_ins(monkeypatch):
    """A GPU, and TensorRT, that are none: see tests/unit/backends."""
    cuda = fake_cuda.Late()
    trt = fake_tensorrt.Module(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=cuda)))
    monkeypatch.setattr("despina.engine.repository.loader.find_gpus", lambda: [0])
    monkeypatch.setattr(engine_checks, "need", lambda *packages: None)
    monkeypatch.setattr(engine_checks, "free_bytes", lambda: -sum(len(block) for block in cuda.memory.values()))
    monkeypatch.setattr(engine_checks, "latency", lambda *arguments: 1.0)

    def build(path, profiles=1):
        ranges = [{"IN": ((1, 1), (most, 8), (most, 1 << 12))} for most in (models.ROWS_MAX, 2)[:profiles]]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"plan")
        trt.plans[b"plan"] = fake_tensorrt.Plan(
            [fake_tensorrt.Tensor("IN", "FLOAT", (-1, -1))],
            [fake_tensorrt.Tensor("OUT", "FLOAT", (-1, -1))],
            ranges,
            lambda inputs: {"OUT": inputs["IN"] * 2 + 1},
            lambda shapes, values: {"OUT": shapes["IN"]},
        )

    monkeypatch.setattr(models, "build_plan", build)
    return cuda


@pytest.mark.parametrize(
    "name", ["plumbing", "tensorrt_plan", "tensorrt_completed", "tensorrt_graphs", "tensorrt_options"]
)
def test_what_the_checks_ask_of_tensorrt(stand_ins, tmp_path, name):
    """Goal: the configurations and the questions of the checks are right, so that time on a GPU is not spent on them.
    Method: over stand-ins, which answer as the device should."""
    engine_checks.CHECKS[name](tmp_path)
    assert stand_ins.leftovers() == (0, 0, 0, 0, 0)
    if name == "tensorrt_graphs":
        assert stand_ins.launches >= 5


def test_what_the_checks_ask_of_onnx_runtime(tmp_path):
    """Goal: the accelerator's configuration is one that the backend takes."""
    models.write_onnx(tmp_path / "m", engine_checks.TENSORRT)
    config = parse_config((tmp_path / "m" / "config.pbtxt").read_text())
    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    chosen = dict(providers_for(config, "GPU", 0, available))
    assert chosen["TensorrtExecutionProvider"] == {"device_id": "0", "trt_max_workspace_size": "268435456"}


def test_figures_read_well():
    """Goal: a figure that could not be had is said in its place."""
    assert server_checks.shown((1234.5, 67.8)) == "1,234 | 68"
    assert server_checks.shown((0.47, 305_000.0)) == "0.5 | 305,000"
    assert server_checks.shown("no memory") == "no memory |"
