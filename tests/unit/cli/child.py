"""`despina serve` as a child of a test, with a model that sleeps as long as its input says."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import re
import subprocess
import sys
import threading

import attrs
import orjson
from despina.frontends.cli.verbs import run_verb

from tests import in_process

MODEL = """
import time
import numpy
import triton_python_backend_utils as pb_utils

from tests import in_process


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy() for request in requests]
        time.sleep(max(float(seconds.max()) for seconds in inputs))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("TWICE", seconds * 2)]) for seconds in inputs]
"""
CONFIG = (
    """
backend: "python"
max_batch_size: 64
input [ { name: "SECONDS" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "TWICE" data_type: TYPE_FP32 dims: [ 1 ] } ]
dynamic_batching { }
"""
    + in_process.PARAMETER
)
COMMAND = [sys.executable, "-c", "from despina.frontends.cli import main; main()"]
WAIT_S = 30


def add_model(folder, name, source):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.py").write_text(source)
    (folder / name / "config.pbtxt").write_text(CONFIG)


class Serving:
    """A running `despina serve` on ports of its own. Output is collected as it comes."""

    def __init__(self, *arguments, command=COMMAND, **environment):
        self.lines = []
        ports = [
            "--http-port=0",
            "--grpc-port=0",
            "--metrics-port=0",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
        ]
        self.process = subprocess.Popen(
            [*command, "serve", *ports, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("(end)")
            self._news.notify_all()

    def wait_for(self, pattern):
        """The first line that matches, as a match."""

        def found():
            return next((match for line in list(self.lines) if (match := re.search(pattern, line))), None)

        with self._news:
            self._news.wait_for(lambda: found() or "(end)" in self.lines, WAIT_S)
            match = found()
        assert match, f"no line matches {pattern!r}:\n" + "\n".join(self.lines)
        return match

    def port(self, service):
        return int(self.wait_for(rf"Started {service} at 127\.0\.0\.1:(\d+)")[1])

    def end(self):
        """The exit code, and what the process said."""
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code, "\n".join(self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(WAIT_S)
        self.process.stdout.close()


def send(port, seconds):
    """A connection with one request on its way."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    body = {"inputs": [{"name": "SECONDS", "shape": [1, 1], "datatype": "FP32", "data": [seconds]}]}
    connection.request("POST", "/v2/models/sleeper/infer", orjson.dumps(body))
    return connection


@attrs.frozen
class Done:
    """As subprocess has it."""

    returncode: int
    stdout: str
    stderr: str


def ask(*arguments, stdin=b""):
    """The same for a verb that asks a server, in this process: half a second less each."""
    said, complained = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler).__module__.startswith("despina."):  # of a server that another test has run in this process
            root.removeHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            code = run_verb(arguments)
    finally:
        sys.stdin = before
    return Done(code, said.getvalue(), complained.getvalue())


def run(*arguments):
    """The command, run to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=WAIT_S)
