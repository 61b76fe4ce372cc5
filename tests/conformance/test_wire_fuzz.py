"""Damaged HTTP/2 frames and HTTP/1.1 heads over TCP to the real process, while others go on asking it.

The fuzz targets do this for hours within one process (fuzz/); here a fixed number of inputs shows that the whole
server, as it is started, keeps nothing of them: no traceback, no descriptor, no thread and no task.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from fuzz.fuzz_http1 import SEEDS as HTTP1_SEEDS
from fuzz.fuzz_http1 import damaged
from fuzz.fuzz_http2 import LIVE
from fuzz.fuzz_http2 import SEEDS as HTTP2_SEEDS
from tests.conformance.servers import Server, copied, free_ports, running
from tests.conformance.wire import WAIT_S, connect, wire_models

SEED = 20
HTTP2_COUNT, HTTP2_ON_HTTP_COUNT, HTTP1_COUNT = 1200, 200, 800
# What is cut short behind pipelined requests is found out by these.
OPTIONS = ("--http-head-timeout=2", "--http-body-stall-timeout=2")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# The command with one addition: at SIGUSR1 it writes down how many tasks live.
_OBSERVED = """
import signal, sys, trio
from despina.frontends.cli import main

def tell(*_):
    with open(place, "a") as file:
        file.write(f"{trio.lowlevel.current_statistics().tasks_living}\\n")

place = sys.argv.pop(1)
signal.signal(signal.SIGUSR1, tell)
main()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that can be asked for its number of tasks."""
    folder = tmp_path_factory.mktemp("fuzz")
    repository, ports = copied(wire_models(folder), folder), free_ports(3)
    command = [sys.executable, "-c", _OBSERVED, str(folder / "tasks"), "serve", f"--model-repository={repository}"]
    for door, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{door}-address=127.0.0.1", f"--{door}-port={port}"]
    with running([*command, *OPTIONS], folder, repository, ports, dict(os.environ)) as process:
        yield process


class Resources:
    """What a process holds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._told = server.log.parent / "tasks"

    def counts(self) -> dict[str, int]:
        """Descriptors and threads that the kernel knows, and tasks that the process knows."""
        process = Path(f"/proc/{self._server.pid}")
        lines = self._lines()
        os.kill(self._server.pid, signal.SIGUSR1)
        give_up = time.monotonic() + WAIT_S
        while len(self._lines()) == len(lines):
            assert time.monotonic() < give_up, "the server does not answer signals"
            time.sleep(0.005)
        return {
            "descriptors": len(list((process / "fd").iterdir())),
            "threads": len(list((process / "task").iterdir())),
            "tasks": int(self._lines()[-1]),
        }

    def _lines(self) -> list[str]:
        return self._told.read_text().splitlines() if self._told.exists() else []

    def assert_back_to(self, baseline: dict[str, int]) -> None:
        """Waits until nothing is held that was not held before."""
        give_up = time.monotonic() + WAIT_S
        while any((counts := self.counts())[name] > baseline[name] for name in baseline):
            assert time.monotonic() < give_up, f"{counts} of {baseline}"
            time.sleep(0.05)


@contextlib.contextmanager
def right_answers_meanwhile(server):
    """A gRPC and an HTTP client on one connection each ask all the time, and get the right sums and differences."""
    over, problems, asked = threading.Event(), [], {}

    def ask(module, port):
        try:
            with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
                number = 0
                while not over.is_set():
                    row = np.arange(number, number + 16, dtype=np.int32).reshape(1, 16)
                    inputs = [module.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
                    inputs[0].set_data_from_numpy(row)
                    inputs[1].set_data_from_numpy(row * 3)
                    result = client.infer("simple", inputs)
                    assert (result.as_numpy("OUTPUT0") == row * 4).all()
                    assert (result.as_numpy("OUTPUT1") == row * -2).all()
                    asked[module] = number = number + 1
                    over.wait(0.01)
        except Exception as problem:
            problems.append(problem)

    ports = {tritonclient.grpc: server.grpc_port, tritonclient.http: server.http_port}
    threads = [threading.Thread(target=ask, args=pair) for pair in ports.items()]
    for thread in threads:
        thread.start()
    try:
        yield
        give_up = time.monotonic() + WAIT_S
        while min(asked.get(module, 0) for module in ports) < 5 and not problems and time.monotonic() < give_up:
            time.sleep(0.01)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert min(asked.get(module, 0) for module in ports) >= 5, asked


def warm_up(server):
    """The first connection of each kind imports modules, and starts threads that stay."""
    with right_answers_meanwhile(server):
        for port in (server.grpc_port, server.http_port):
            talk(port, LIVE, random.Random(SEED))


def talk(port, data, chance):
    """Sends `data` in pieces, ends the stream, and reads to the end of what comes, which must come."""
    with connect(port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            while data:
                size = chance.choice((9, 100, 100_000, 100_000))
                sock.sendall(data[:size])
                data = data[size:]
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while sock.recv(65536):
                pass


def frames_of(data):
    """The frames after the preface: kind, flags, stream and payload of each."""
    found, at = [], len(PREFACE)
    while at + 9 <= len(data):
        size_and_kind, flags, stream = struct.unpack(">IBI", data[at : at + 9])
        end = at + 9 + (size_and_kind >> 8)
        found.append((size_and_kind & 255, flags, stream, data[at + 9 : end]))
        at = end
    return found


def mutated(data, chance):
    """The same conversation with frames lost, repeated, moved, altered or added, and now and then a wrong length."""
    frames = frames_of(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(frames))
        kind, flags, stream, payload = frames[at]
        match chance.randrange(8):
            case 0 if len(frames) > 1:
                del frames[at]
            case 1:
                frames.insert(chance.randrange(len(frames) + 1), frames[at])
            case 2:
                other = chance.randrange(len(frames))
                frames[at], frames[other] = frames[other], frames[at]
            case 3:
                frames[at] = (kind, chance.randrange(256), stream, payload)
            case 4:
                frames[at] = (kind, flags, chance.choice((0, 1, 2, 3, 5, 2**31 - 1, 2**31 + 1)), payload)
            case 5:
                frames[at] = (chance.randrange(12), flags, stream, payload)
            case 6:
                cut = chance.randrange(len(payload) + 1)  # the second part continues a header block, or seems to
                frames[at : at + 1] = [(kind, flags & ~4, stream, payload[:cut]), (9, 4, stream, payload[cut:])]
            case _:
                frames.insert(at, (chance.randrange(12), flags, stream, chance.randbytes(chance.choice((0, 4, 5, 8)))))
    wire = bytearray(PREFACE if chance.random() < 0.98 else PREFACE[:-1])
    for kind, flags, stream, payload in frames:
        size = max(0, len(payload) + (chance.choice((-1, 1, 2**24 - 1)) if chance.random() < 0.02 else 0)) % 2**24
        wire += struct.pack(">IBI", size << 8 | kind, flags, stream) + payload
    return bytes(wire)


def assert_unharmed(server, name, inputs, port):
    """Sends all of `inputs`, and looks at the process before and after."""
    warm_up(server)
    resources = Resources(server)
    baseline = resources.counts()
    log = server.log.stat().st_size
    chance = random.Random(SEED)
    with right_answers_meanwhile(server):
        for number, data in enumerate(inputs):
            try:
                talk(port, data, chance)
            except TimeoutError:
                raise AssertionError(f"{name} {number} of seed {SEED} is left waiting: {data!r}") from None
    resources.assert_back_to(baseline)
    with server.log.open() as file:
        file.seek(log)
        assert "Traceback" not in file.read()


def test_frames_on_the_grpc_door(server):
    """Goal: whatever the frames, that connection ends, and nothing is left of it."""
    chance = random.Random(SEED)
    seeds = [path.read_bytes() for path in sorted(HTTP2_SEEDS.iterdir())]
    inputs = [mutated(chance.choice(seeds), chance) for _ in range(HTTP2_COUNT)]
    assert_unharmed(server, "frames", inputs, server.grpc_port)


def test_frames_on_the_http_door(server):
    """Goal: the same for HTTP/2 by prior knowledge."""
    chance = random.Random(SEED)
    seeds = [path.read_bytes() for path in sorted(HTTP2_SEEDS.iterdir())]
    inputs = [mutated(chance.choice(seeds), chance) for _ in range(HTTP2_ON_HTTP_COUNT)]
    assert_unharmed(server, "frames", inputs, server.http_port)


def test_heads_on_the_http_door(server):
    """Goal: the same for damaged HTTP/1.1 heads and bodies."""
    chance = random.Random(SEED)
    seeds = [path.read_bytes() for path in sorted(HTTP1_SEEDS.iterdir())]
    inputs = [damaged(chance.choice(seeds), chance) for _ in range(HTTP1_COUNT)]
    assert_unharmed(server, "head", inputs, server.http_port)
