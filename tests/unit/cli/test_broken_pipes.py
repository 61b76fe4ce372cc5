"""Readers that stop reading what the command writes: `despina --help | head -1`, a server whose log nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request

import pytest

COMMAND = [sys.executable, "-c", "from despina.frontends.cli import main; main()"]
WAIT_S = 30


@pytest.mark.parametrize(("arguments", "unbuffered"), [(["--help"], ""), (["--help"], "1"), (["serve", "--help"], "1")])
def test_help_that_nobody_reads(arguments, unbuffered):
    """Goal: no traceback, whether the text is refused when it is written or when the process ends."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    try:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=WAIT_S
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 128 + signal.SIGPIPE)


def test_output_to_a_full_disk():
    """Goal: the text is lost, so the command has failed; no traceback."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")


def test_a_server_whose_output_nobody_reads(tmp_path):
    """Goal: it serves on, and a signal stops it in order."""
    ports = [f"--{door}-port=0" for door in ("http", "grpc", "metrics")]
    addresses = ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    with subprocess.Popen(
        [*COMMAND, "serve", f"--model-repository={tmp_path}", *ports, *addresses],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for line in process.stdout:
                if "Started HTTPService at " in line:
                    place = line.partition(" at ")[2].rstrip('"\n')
                if "Started Metrics Service" in line:
                    break
            process.stdout.close()
            for _ in range(2):
                with urllib.request.urlopen(f"http://{place}/v2/health/live", timeout=WAIT_S) as reply:
                    assert reply.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
