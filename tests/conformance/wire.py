"""What the tests of the wire share: a repository, plain sockets with a time limit, and a look at the process."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests import in_process
from tests.conformance.suites import HERE

if TYPE_CHECKING:
    from tests.conformance.servers import Server

WAIT_S = 10.0
"""No answer may take longer. Tests that wait for a timeout of the server say so."""
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\n\r\n"

_COUNT_CONFIG = """
name: "count" backend: "python" max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "N" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "I" data_type: TYPE_INT32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
_COUNT_MODEL = '''
"""Answers each request with the number 0, and after N milliseconds with the number 1."""
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils


def answer(sender, pause):
    for number in range(2):
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("I", np.array([number], np.int32))]))
        time.sleep(pause * (1 - number))
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            pause = float(pb_utils.get_input_tensor_by_name(request, "N").as_numpy().max()) / 1000
            threading.Thread(target=answer, args=(request.get_response_sender(), pause), daemon=True).start()
'''


_NAP_CONFIG = """
name: "nap" backend: "python" max_batch_size: 0
input [ { name: "SECONDS" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "SLEPT" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


def wire_models(folder: Path) -> Path:
    """A repository with `simple`, `identity_any`, `nap`, which sleeps without a bound on its queue, and the decoupled
    `count`, whose input is its pause in milliseconds; all in the server's process, for tests look at its memory."""
    models = folder / "models"
    for name in ("simple", "identity_any"):
        shutil.copytree(HERE / "models" / name, models / name, ignore=shutil.ignore_patterns("__pycache__"))
        config = models / name / "config.pbtxt"
        config.write_text(config.read_text() + in_process.PARAMETER)
    slow = (HERE / "models" / "slow" / "1" / "model.py").read_text()
    for name, config, code in (("count", _COUNT_CONFIG, _COUNT_MODEL), ("nap", _NAP_CONFIG, slow)):
        (models / name / "1").mkdir(parents=True)
        (models / name / "config.pbtxt").write_text(config + in_process.PARAMETER)
        (models / name / "1" / "model.py").write_text(code)
    return models


def connect(port: int, *, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(WAIT_S)
    sock.connect(("127.0.0.1", port))
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream. TimeoutError where it does not end, ConnectionError on a reset."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def assert_http_served(server: Server) -> None:
    with connect(server.http_port) as sock:
        sock.sendall(READY)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")


def cpu_seconds(pid: int) -> float:
    """CPU time that the process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int, what: str = "VmRSS") -> int:
    """A figure of /proc/<pid>/status: VmRSS now, VmHWM at its highest."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {what} of process {pid}")


def reset_peak(pid: int) -> None:
    """VmHWM counts from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
