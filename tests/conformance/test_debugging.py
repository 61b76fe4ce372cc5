"""breakpoint() in a Python model: at the server's terminal, in the server's process and in one of the model's own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.conformance.processes import command

CONFIG = """
backend: "python"
input [{ name: "IN" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
parameters { key: "DESPINA_EXECUTION_SECONDS_MAX" value { string_value: "0.5" } }
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            factor = 2
            given = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            breakpoint()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", given * np.int32(factor))]))
        return answers
"""
WAIT_S = 30


class Terminal:
    """A server that was started at a terminal, and who sits there."""

    def __init__(self, line):
        self._ours, theirs = pty.openpty()

        def sit_down():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.child = subprocess.Popen(
            line, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=sit_down
        )
        os.close(theirs)
        self.shown = ""

    def until(self, pattern):
        """What is shown up to a pattern; then it counts no more."""
        give_up = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self._ours], [], [], max(0, give_up - time.monotonic()))
            assert ready, f"never shown: {pattern!r}\n{self.shown}"
            self.shown += os.read(self._ours, 1 << 16).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found

    def type(self, line):
        os.write(self._ours, f"{line}\n".encode())

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        os.close(self._ours)


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "models" / "m" / "1" / "model.py").write_text(MODEL)
    return tmp_path / "models"


def asked(port):
    """What a client gets for 21, later."""
    tensor = {"name": "IN", "datatype": "INT32", "shape": [1], "data": [21]}
    body = json.dumps({"inputs": [tensor]}).encode()
    found = []

    def ask():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/m/infer", body, timeout=WAIT_S) as answer:
                found.append(json.load(answer)["outputs"][0]["data"])
        except urllib.error.HTTPError as error:
            with error:
                found.append(json.load(error)["error"])

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_breakpoint(models, isolation):
    """Goal: the model stops, and shows and changes what is asked for, for longer than it may take otherwise."""
    line = command(models, f"--backend-config=python,isolation={isolation}", "--debug-model=m")
    terminal = Terminal(line)
    try:
        port = terminal.until(r"Started HTTPService at [^:]*:(\d+)")[1]
        thread, found = asked(port)
        terminal.until(r"\(Pdb\) ")
        terminal.type("p given[0] + 1000")
        terminal.until(r"\b1021\b")
        terminal.until(r"\(Pdb\) ")
        time.sleep(0.7)  # longer than an execution may take
        terminal.type("factor = 3")
        terminal.until(r"\(Pdb\) ")
        terminal.type("c")
        thread.join(WAIT_S)
        assert found == [[63]]
    finally:
        terminal.close()


def test_without_a_terminal(models):
    """Goal: a breakpoint that was forgotten in a model's own process fails the request, and says how it is used."""
    terminal = Terminal(command(models))
    try:
        port = terminal.until(r"Started HTTPService at [^:]*:(\d+)")[1]
        thread, found = asked(port)
        thread.join(WAIT_S)
        (text,) = found
        assert "BdbQuit: " in text
        assert "despina serve --debug-model NAME" in text
    finally:
        terminal.close()
