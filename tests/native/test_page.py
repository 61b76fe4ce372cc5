"""examples/native/README.md, followed word by word."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.native.conftest import SOURCES

BLOCK = re.compile(r"^```(bash|pbtxt|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = "despina serve"


class Reader:
    """Does what the page says, in a folder with the examples; on ports of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.server = None
        self.said = ""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.ports = [opened.getsockname()[1] for opened in sockets]
        for opened in sockets:
            opened.close()
        self.environment = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": Path.home()}

    def follow(self, before, kind, text):
        if kind == "pbtxt":
            (path,) = re.findall(r"`([^`]+)`:$", before)
            (self.folder / path).write_text(text)
        elif kind == "json":
            assert json.loads(self.said) == json.loads(text)
        elif text.startswith(SERVE):
            self.serve(text)
        else:
            self.said = self.run("set -e\n" + self.kept() + text.replace("8000", str(self.ports[0])))

    def kept(self):
        """Variables are still there in a terminal."""
        return "flags=$(python -m despina.frontends.capi --cflags)\n"

    def run(self, script):
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, command):
        self.stop()
        doors = zip(("http", "grpc", "metrics"), self.ports, strict=True)
        given = "".join(f" --{door}-port={port}" for door, port in doors)
        script = "exec " + command.replace(SERVE, SERVE + given)
        with (self.folder / "log").open("w") as log:
            self.server = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while "Started HTTPService" not in (self.folder / "log").read_text():
            assert self.server.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            assert self.server.wait(30) == 0
            self.server = None


@pytest.mark.usefixtures("include")
def test_the_page_can_be_followed(tmp_path):
    """Goal: every command does what the page says, and every answer is the one that it shows."""
    if shutil.which("curl") is None:
        pytest.skip("no 'curl' on the PATH")
    for source in SOURCES.iterdir():
        shutil.copy(source, tmp_path)
    page = (SOURCES / "README.md").read_text()
    blocks = [*BLOCK.finditer(page)]
    assert [block[1] for block in blocks] == ["bash", "pbtxt", "bash", "bash", "json"] * 2
    reader = Reader(tmp_path)
    try:
        for block in blocks:
            reader.follow(page[: block.start()].rstrip(), block[1], block[2])
        reader.stop()
    finally:
        if reader.server is not None:
            reader.server.kill()
            reader.server.wait()


def test_examples_are_as_short_as_the_page_says():
    """Goal: each shows one thing, in at most 60 lines."""
    too_long = {source.name for source in SOURCES.glob("*.cc") if len(source.read_text().splitlines()) > 60}
    assert not too_long
