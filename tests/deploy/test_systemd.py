"""The units of examples/deploy/systemd, judged by systemd and run by it."""

from __future__ import annotations

import concurrent.futures
import http.client
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import orjson
import pytest
import tritonclient.grpc

from tests.conformance.inputs import sums
from tests.conformance.servers import free_ports
from tests.deploy.service_managers import WAIT_S, user_manager, why_none

UNITS = Path(__file__).resolve().parents[2] / "examples" / "deploy" / "systemd"
DESPINA = Path(sys.executable).parent / "despina"
EXPOSURE_MAX = 1.5
"""Of 10: systemd's own figure for what a service could do to its machine."""
CALLERS = 8

STUCK = """
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy()) for request in requests]

    def answer(self, seconds):
        stand_still(float(seconds.max()))
        return pb_utils.InferenceResponse([pb_utils.Tensor("TWICE", seconds * 2)])


def stand_still(seconds):
    time.sleep(seconds)
"""
STUCK_CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "SECONDS" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "TWICE" data_type: TYPE_FP32 dims: [ 1 ] } ]
parameters { key: "DESPINA_ISOLATION" value { string_value: "none" } }
parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }
"""

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def copied_units(folder):
    """The units with the command that is here, and its options in the place of the file's."""
    folder.mkdir(parents=True, exist_ok=True)
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        text = unit.read_text().replace("/opt/despina/bin/despina", str(DESPINA))
        (folder / unit.name).write_text(text)
    return folder


@needs_analyze
def test_units_are_well_formed(tmp_path):
    """Goal: systemd finds no unknown option, value, section or missing unit."""
    units = sorted(map(str, copied_units(tmp_path).iterdir()))
    assert len(units) == 4
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize(("drop_in", "allowed"), [(None, EXPOSURE_MAX), ("gpu.conf", 2.0)])
def test_units_expose_little(tmp_path, drop_in, allowed):
    """Goal: systemd's own measure of what the service may do, and what GPUs add to it, stays where it is."""
    unit = copied_units(tmp_path) / "despina.service"
    if drop_in:
        unit.write_text(unit.read_text() + "\n" + (UNITS / drop_in).read_text())
    threshold = f"--threshold={round(allowed * 10)}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, unit], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


# --- Run by a real systemd


@pytest.fixture(scope="module")
def manager():
    if reason := why_none():
        pytest.skip(f"no systemd to run the units: {reason}")
    with tempfile.TemporaryDirectory(prefix="despina") as folder, user_manager(Path(folder)) as running:
        running.folder = Path(folder)
        yield running


@pytest.fixture
def service(manager):
    """The installed units with their hardening, on free ports, with an ONNX model and one that can be made to hold the
    event loop. Of the units only what a user manager cannot do is taken away: another user."""
    http_port, grpc_port, metrics_port = free_ports(3)
    folder = manager.folder
    models = folder / "models"
    shutil.copytree(UNITS.parents[1] / "models" / "addsub", models / "addsub", dirs_exist_ok=True)
    (models / "stuck" / "1").mkdir(parents=True, exist_ok=True)
    (models / "stuck" / "1" / "model.py").write_text(STUCK)
    (models / "stuck" / "config.pbtxt").write_text(STUCK_CONFIG)
    options = folder / "despina.toml"
    options.write_text((UNITS / "despina.toml").read_text().replace("/srv/despina/models", str(models)))
    copied_units(manager.units)
    unit = manager.units / "despina.service"
    unit.write_text(unit.read_text().replace("/etc/despina/despina.toml", str(options)))
    for door, port, own in (("http", 8000, http_port), ("grpc", 8001, grpc_port), ("metrics", 8002, metrics_port)):
        socket = manager.units / f"despina-{door}.socket"
        socket.write_text(socket.read_text().replace(f"ListenStream={port}", f"ListenStream=127.0.0.1:{own}"))
    log = folder / "server.log"
    log.unlink(missing_ok=True)
    more = manager.units / "despina.service.d" / "test.conf"
    more.parent.mkdir(exist_ok=True)
    (more.parent / "watchdog.conf").unlink(missing_ok=True)
    more.write_text(
        f"[Service]\nDynamicUser=no\nUser=\nProtectHome=read-only\nBindPaths={folder}\n"
        f"BindReadOnlyPaths={UNITS.parents[2]}\n"
        f"StandardOutput=append:{log}\nStandardError=inherit\n"
    )
    manager.systemctl("daemon-reload")
    manager.http_port, manager.grpc_port, manager.log = http_port, grpc_port, log
    manager.systemctl("start", "despina-http.socket", "despina-grpc.socket", "despina-metrics.socket")
    yield manager
    manager.systemctl("stop", "despina-http.socket", "despina-grpc.socket", "despina-metrics.socket", "despina.service")
    manager.systemctl("reset-failed")


def ask(port, model, inputs):
    """The status of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        body = orjson.dumps({"inputs": inputs})
        connection.request("POST", f"/v2/models/{model}/infer", body, {"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


ADD = [{"name": name, "datatype": "INT32", "shape": [1, 16], "data": [1] * 16} for name in ("INPUT0", "INPUT1")]


def stuck_for(seconds):
    return [{"name": "SECONDS", "datatype": "FP32", "shape": [1], "data": [seconds]}]


def test_restart_under_load(service):
    """Goal: the first connection starts the server, within its hardening; while it is restarted, callers of both
    doors wait a moment and not one is refused or fails; `systemctl status` says what it serves; a reload is no end."""
    assert ask(service.http_port, "addsub", ADD) == 200
    service.until("despina.service", "StatusText", "serving 2 models")
    first = service.property("despina.service", "MainPID")
    over = threading.Event()

    def call_http():
        count = 0
        while not over.is_set():
            assert ask(service.http_port, "addsub", ADD) == 200
            count += 1
        return count

    def call_grpc():
        count = 0
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
            while not over.is_set():
                answer = client.infer("addsub", sums(tritonclient.grpc, count), client_timeout=WAIT_S)
                assert np.array_equal(answer.as_numpy("OUTPUT0")[0, :1], [count])
                count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call) for call in (call_http, call_grpc) for _ in range(CALLERS // 2)]
        try:
            service.systemctl("reload", "despina.service")
            assert service.property("despina.service", "MainPID") == first
            service.systemctl("restart", "despina.service")
            assert service.property("despina.service", "ActiveState") == "active"
        finally:
            over.set()
        counts = [call.result(WAIT_S) for call in calls]
    assert min(counts) > 0
    assert service.property("despina.service", "MainPID") != first
    assert service.property("despina.service", "NRestarts") == "0"


def test_a_stuck_loop_is_restarted(service):
    """Goal: a server whose event loop stands still is ended by systemd and another takes its place: callers who come
    meanwhile wait for it. The log shows where it stood."""
    drop_in = service.units / "despina.service.d" / "watchdog.conf"
    drop_in.write_text("[Service]\nWatchdogSec=2s\n")
    service.systemctl("daemon-reload")
    assert ask(service.http_port, "stuck", stuck_for(0)) == 200
    service.until("despina.service", "StatusText", "serving 2 models")
    assert service.property("despina.service", "NRestarts") == "0"
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(service.http_port, "stuck", stuck_for(1000))
    assert ask(service.http_port, "addsub", ADD) == 200
    assert int(service.property("despina.service", "NRestarts")) >= 1
    service.until("despina.service", "ActiveState", "active")
    assert "in stand_still" in service.log.read_text()
