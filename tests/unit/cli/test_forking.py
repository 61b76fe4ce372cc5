"""A model that forks: its children hold neither the ports nor the connections of the server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from despina.frontends.cli import forking

from tests.unit.cli.child import WAIT_S, Serving, add_model, send

FORKING = """
import os
import time
import triton_python_backend_utils as pb_utils


def fork():
    child = os.fork()
    if child == 0:
        for output in (1, 2):  # the test reads them to their end
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        time.sleep(600)
        os._exit(0)
    with open({pids!r}, "a") as file:
        file.write(f"{{child}}\\n")


class TritonPythonModel:
    def initialize(self, args):
        fork()

    def execute(self, requests):
        fork()
        inputs = [pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("TWICE", seconds * 2)]) for seconds in inputs]
"""


@pytest.fixture
def forked(tmp_path):
    """A repository whose model forks a sleeper when it opens and whenever it executes; they go with the test."""
    pids = tmp_path / "pids"
    add_model(tmp_path / "models", "sleeper", FORKING.format(pids=str(pids)))
    yield tmp_path / "models", lambda: [int(line) for line in pids.read_text().split()]
    for pid in pids.read_text().split() if pids.exists() else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def test_children_hold_no_port_and_no_connection(forked, socket_folder):
    """Goal: once the server has gone every port can be bound again, and its clients hear the end, whatever the children
    do. Method: real processes; children of before the doors listened and of while a client was connected."""
    repository, pids = forked
    path = socket_folder / "door.sock"
    with Serving(f"--model-repository={repository}", f"--grpc-address=unix:{path}") as server:
        ports = [server.port("HTTPService"), server.port("Metrics Service")]
        connections = [socket.create_connection(("127.0.0.1", port), WAIT_S) for port in ports]
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(WAIT_S)
        local.connect(str(path))
        assert local.recv(1)  # the door's first frame: it has accepted
        caller = send(ports[0], 0)
        assert caller.getresponse().status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
    assert len(pids()) >= 2
    children = [psutil.Process(pid) for pid in pids()]  # they live
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()
    while local.recv(1 << 16):
        pass
    for connection in (*connections, caller.sock):
        if connection is not None:  # http.client has closed it already
            assert connection.recv(1) == b""
            connection.close()
    local.close()
    for child in children:
        child.terminate()  # and hear signals as if there were no server
    _, alive = psutil.wait_procs(children, WAIT_S)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_other_sockets_stay():
    """Goal: what a model itself has opened reaches its children; and the numbers of closed ones are not used anew."""
    script = """
import os, socket, sys
from despina.frontends.cli.forking import keep_from_children
door = socket.create_server(("127.0.0.1", 0))
wild = socket.create_server(("0.0.0.0", 0))
keep_from_children([door, wild])
port = door.getsockname()[1]
other = socket.create_server(("127.0.0.1", 0))
pair = socket.socketpair()
calling = socket.create_connection(("127.0.0.1", port))
accepted, _ = door.accept()
by_wild = socket.create_connection(("127.0.0.1", wild.getsockname()[1]))
accepted_wild, _ = wild.accept()
pid = os.fork()
if pid == 0:
    free = os.open(os.devnull, os.O_RDONLY)
    taken = {sock.fileno() for sock in (door, wild, accepted, accepted_wild)}
    pair[1].sendall(b"1" if free not in taken else b"0")
    try:
        for sock in (other, calling, by_wild):
            sock.getpeername() if sock is not other else sock.getsockname()
        pair[1].sendall(b"1")
    except OSError:
        pair[1].sendall(b"0")
    for sock in (door, wild, accepted, accepted_wild):
        try:
            sock.getsockname()
            pair[1].sendall(b"0")
        except OSError:
            pair[1].sendall(b"1")
    os._exit(0)
os.waitpid(pid, 0)
accepted.sendall(b"x")
print(pair[0].recv(100).decode(), calling.recv(1).decode(), door.getsockname()[1] == port)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S)
    assert (done.stdout, done.stderr) == ("111111 x True\n", "")


def test_places(tmp_path):
    """Goal: a connection that came over IPv6 in IPv4's clothes is its door's; a nameless socket is nobody's."""
    nameless = socket.socketpair()
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as door:
        port = door.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = door.accept()
            assert forking._place(accepted) == ("127.0.0.1", port)
            accepted.close()
    for sock in nameless:
        assert forking._place(sock) is None
        sock.close()
