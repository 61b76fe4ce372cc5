"""Sockets that a service manager passes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import orjson
import pytest
import tritonclient.grpc
from despina.frontends.cli.activation import inherited_doors
from despina.frontends.cli.listening import BadAddress

WAIT_S = 30
SERVICES = ["HTTP", "GRPC", "metrics"]


def variables(count, names=None, pid=None):
    made = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count)}
    return made if names is None else {**made, "LISTEN_FDNAMES": names}


@pytest.mark.parametrize("environment", [{}, variables(1, pid=1), {"LISTEN_PID": str(os.getpid())}])
def test_nothing_for_us(environment):
    """Goal: without the variables, or with those of another process, nothing is taken; they are gone afterwards."""
    assert inherited_doors(SERVICES, environment) == {}
    assert environment == {}


def test_count_must_be_a_number():
    """Goal: a broken variable is named."""
    with pytest.raises(BadAddress, match="LISTEN_FDS is no number: x"):
        inherited_doors(SERVICES, variables("x"))


# Runs in a process of its own, where descriptors from 3 on can be laid out as a service manager does.
SHOW = """
import os, sys
from despina.frontends.cli.activation import inherited_doors
from despina.frontends.cli.listening import BadAddress
try:
    found = inherited_doors(sys.argv[1].split(","), os.environ)
except BadAddress as problem:
    print("refused:", problem)
else:
    print(*(f"{name}={'+'.join(str(sock.fileno()) for sock in door.sockets)}" for name, door in sorted(found.items())))
"""


# What a service manager does between fork and exec: descriptors from 3 on, and the pid that the command will have.
LAUNCH = """
import os, sys
given = [int(text) for text in sys.argv[1].split(",")]
for fd in given:
    os.dup2(fd, fd + 500)
for place, fd in enumerate(given):
    os.dup2(fd + 500, 3 + place)
os.closerange(3 + len(given), 1000)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def passed_on(command, sockets, names=None):
    """A process that finds `sockets` from descriptor 3 on, and its pid in LISTEN_PID."""
    environment = {**os.environ, "LISTEN_FDS": str(len(sockets))}
    if names is not None:
        environment["LISTEN_FDNAMES"] = names
    descriptors = [sock.fileno() for sock in sockets]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, ",".join(map(str, descriptors)), *command],
        env=environment,
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("services", "names", "said"),
    [
        ("HTTP,GRPC,metrics", None, "GRPC=4 HTTP=3 metrics=5"),
        ("HTTP,GRPC,metrics", "metrics:grpc:http", "GRPC=4 HTTP=5 metrics=3"),
        ("HTTP,GRPC,metrics", "http:http:x.socket", "GRPC=5 HTTP=3+4"),
        ("HTTP,GRPC,metrics", "GRPC", "GRPC=3 HTTP=4 metrics=5"),
        ("metrics,SageMaker,Vertex AI", "vertex-ai:SageMaker:metrics", "SageMaker=4 Vertex AI=3 metrics=5"),
        ("HTTP,metrics", "vertex-ai:x:y", "refused: a socket was passed on for the vertex-ai door, which is not open"),
        ("HTTP,GRPC", None, "refused: 3 sockets were passed on for 2 open doors"),
        ("HTTP,GRPC,metrics", "grpc:grpc:grpc", "GRPC=3+4+5"),
        ("HTTP,metrics", "grpc:x:y", "refused: a socket was passed on for the grpc door, which is not open"),
    ],
)
def test_by_name_and_by_order(services, names, said):
    """Goal: names decide, then the order of the doors; a surplus is refused."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    process = passed_on([sys.executable, "-c", SHOW, services], sockets, names)
    assert process.communicate(timeout=WAIT_S)[0].strip() == said
    for sock in sockets:
        sock.close()


def test_not_a_listening_socket():
    """Goal: a datagram socket is named by its descriptor."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        process = passed_on([sys.executable, "-c", SHOW, "HTTP"], [sock])
        assert "refused: descriptor 3 was passed on, but is no listening" in process.communicate(timeout=WAIT_S)[0]


def test_server_on_passed_on_sockets(tmp_path, socket_folder):
    """Goal: the real command serves HTTP, gRPC and metrics on sockets that it did not open, one of them a Unix socket,
    to clients that connected before it was ready. Method: real descriptors, real clients."""
    (tmp_path / "models").mkdir()
    http = socket.create_server(("127.0.0.1", 0))
    grpc = socket.socket(socket.AF_UNIX)
    grpc.bind(str(socket_folder / "grpc.sock"))
    grpc.listen()
    metrics = socket.create_server(("127.0.0.1", 0))
    early = socket.create_connection(http.getsockname())
    early.settimeout(WAIT_S)
    early.sendall(b"GET /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    command = [sys.executable, "-c", "from despina.frontends.cli import main; main()", "serve"]
    process = passed_on(
        [*command, f"--model-repository={tmp_path / 'models'}"], [metrics, grpc, http], "metrics:grpc:http"
    )
    said = []
    try:
        while not said[-1:] or "Started Metrics Service" not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], "".join(said)
        answer = early.makefile("rb").read()
        assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["name"] == "triton"
        with tritonclient.grpc.InferenceServerClient(f"unix:{socket_folder / 'grpc.sock'}") as client:
            assert client.is_server_live(client_timeout=WAIT_S)
        with socket.create_connection(metrics.getsockname(), timeout=WAIT_S) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert b"200 OK" in scraper.recv(100)
    finally:
        process.terminate()
        said.append(process.communicate(timeout=WAIT_S)[0])
        early.close()
        for sock in (http, grpc, metrics):
            sock.close()
    assert process.returncode == 0, "".join(said)
    assert (socket_folder / "grpc.sock").exists(), "a socket that was passed on is its maker's to remove"
    assert f"Started GRPCInferenceService at unix:{socket_folder / 'grpc.sock'}" in "".join(said)


def test_server_on_unix_sockets(tmp_path, socket_folder):
    """Goal: both doors on Unix sockets, metrics on the loopback beside them; the files go when the server does."""
    (tmp_path / "models").mkdir()
    paths = {door: socket_folder / f"{door}.sock" for door in ("http", "grpc")}
    command = [sys.executable, "-c", "from despina.frontends.cli import main; main()", "serve", "--metrics-port=0"]
    command += [f"--model-repository={tmp_path / 'models'}"]
    process = subprocess.Popen(
        [*command, "--unix-socket-mode=600", *(f"--{door}-address=unix:{path}" for door, path in paths.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    try:
        while not (said and "Started Metrics Service" in said[-1]):
            said.append(process.stdout.readline())
            assert said[-1], "".join(said)
        assert "Started Metrics Service at 127.0.0.1:" in said[-1]
        assert [path.stat().st_mode & 0o777 for path in paths.values()] == [0o600, 0o600]
        with tritonclient.grpc.InferenceServerClient(f"unix:{paths['grpc']}") as client:
            assert client.is_server_live(client_timeout=WAIT_S)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WAIT_S)
            client.connect(str(paths["http"]))
            client.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert not any(path.exists() for path in paths.values())
