"""Where the real process may listen: Unix sockets, ports shared with others, sockets of a service manager."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import json
import os
import queue
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http

from tests.certificates import Certificates
from tests.conformance.inputs import sums, tensor
from tests.conformance.napping import nap_request, occupy, until_waiting
from tests.conformance.processes import activated, command, serving, started
from tests.conformance.wire import READY, WAIT_S, connect, read_to_end, wire_models

ALONE = [("grpc.use_local_subchannel_pool", 1)]
"""A gRPC client with this has a connection of its own."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """simple, identity_any, nap and count."""
    return wire_models(tmp_path_factory.mktemp("sockets"))


@pytest.fixture
def folder():
    """For sockets: the kernel takes no long paths."""
    with tempfile.TemporaryDirectory(prefix="despina") as path:
        yield Path(path)


def on_paths(folder):
    """The options for a server whose doors are files of `folder`."""
    return [f"--{door}-address=unix:{folder / door}" for door in ("http", "grpc")]


@pytest.fixture(scope="module")
def unix(models, tmp_path_factory):
    """The folder with the sockets of a server."""
    log = tmp_path_factory.mktemp("unix") / "log"
    with tempfile.TemporaryDirectory(prefix="despina") as path, serving(models, log, *on_paths(Path(path))):
        yield Path(path)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, as programs write it."""

    def __init__(self, path):
        super().__init__("localhost", timeout=WAIT_S)
        self._path = path

    def connect(self):
        self.sock = reached(self._path)


def reached(path):
    """A connection to a Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT_S)
    sock.connect(str(path))
    return sock


def infer(connection, model, inputs):
    """One request as the real client writes it, and its answer as the real client reads it."""
    client = tritonclient.http.InferenceServerClient
    body, length = client.generate_request_body(inputs)
    connection.request("POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": str(length)})
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200, data
    return client.parse_response_body(data, header_length=int(answer.headers["Inference-Header-Content-Length"]))


# --- Unix sockets


@pytest.mark.parametrize("size", [1 << 10, 8 << 20], ids=["1KiB", "8MiB"])
def test_tensors_over_unix_sockets(unix, size):
    """Goal: binary tensors come back as they went, three times on one connection of each door."""
    values = np.random.default_rng(size).standard_normal((1, size // 4), np.float32)
    with contextlib.closing(UnixConnection(unix / "http")) as connection:
        for _ in range(3):
            result = infer(connection, "identity_any", [tensor(tritonclient.http, "IN_FP32", "FP32", values)])
            assert np.array_equal(result.as_numpy("OUT_FP32"), values)
    with tritonclient.grpc.InferenceServerClient(f"unix:{unix / 'grpc'}") as client:
        for _ in range(3):
            result = client.infer("identity_any", [tensor(tritonclient.grpc, "IN_FP32", "FP32", values)])
            assert np.array_equal(result.as_numpy("OUT_FP32"), values)


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_grpc_client_over_a_unix_socket(unix, form):
    """Goal: the everyday calls, an error, and a stream, by both ways to write the target."""
    seen = queue.SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(form.format(unix / "grpc")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_model_metadata("simple").name == "simple"
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="unknown model: 'nope' is not found"):
            client.infer("nope", sums(tritonclient.grpc, 1))
        client.start_stream(lambda result, error: seen.put((result, error)))
        for number in range(20):
            client.async_stream_infer("simple", sums(tritonclient.grpc, number))
        answers = [seen.get(timeout=WAIT_S) for _ in range(20)]
        client.stop_stream()
    assert [error for _, error in answers] == [None] * 20
    assert [result.as_numpy("OUTPUT0")[0, 0] for result, _ in answers] == list(range(20))


def test_asyncio_client_over_a_unix_socket(unix):
    """Goal: 64 calls at a time."""
    module = tritonclient.grpc.aio

    async def main():
        async with module.InferenceServerClient(f"unix:{unix / 'grpc'}") as client:
            results = await asyncio.gather(*(client.infer("simple", sums(module, number)) for number in range(64)))
            assert [one.as_numpy("OUTPUT0")[0, 0] for one in results] == list(range(64))

    asyncio.run(asyncio.wait_for(main(), 30))


def test_bare_unix_sockets(unix):
    """Goal: pipelined requests are answered in order; a hundred connections at a time are served; what is malformed is
    refused and closed."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(reached(unix / "http")) for _ in range(100)]
        for sock in socks:
            sock.sendall(READY * 3 + READY.replace(b"Host: h", b"Host: h\r\nConnection: close"))
        for sock in socks:
            assert read_to_end(sock).count(b"HTTP/1.1 200 OK\r\n") == 4
    with reached(unix / "http") as sock:
        sock.sendall(b"GET /v2\0 HTTP/1.1\r\n\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 400")


def test_files_of_unix_sockets(models, folder, tmp_path):
    """Goal: the files of a killed server are replaced; those of a server that lives are not, and it serves on; after
    SIGTERM the request under way is answered and the files are gone."""
    with serving(models, tmp_path / "log", *on_paths(folder)) as killed:
        killed.child.kill()
        killed.child.wait()
    assert (folder / "http").is_socket()
    with serving(models, tmp_path / "log", *on_paths(folder)) as server:
        with started(command(models, f"--grpc-address=unix:{folder / 'grpc'}"), tmp_path / "second") as second:
            code, said = second.ended()
        assert code == 1
        assert f"Socket 'unix:{folder / 'grpc'}' already in use" in said
        with (
            tritonclient.grpc.InferenceServerClient(f"unix:{folder / 'grpc'}") as client,
            reached(folder / "http") as sock,
        ):
            answers = occupy(server, client, 1)
            sock.sendall(nap_request(0.01))
            until_waiting(server, 2)
            server.terminate()
            client.stop_stream()
            assert [answers.get(timeout=WAIT_S) for _ in range(2)] == [None, None]
            assert b" 200 OK" in read_to_end(sock)
        assert server.ended()[0] == 0
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("door", "name"), [("http", "file"), ("grpc", "x" * 120)], ids=["file", "long"])
def test_paths_that_cannot_be(models, folder, tmp_path, door, name):
    """Goal: a path that is too long and one of another kind of file end the start with their name; the file is left
    alone."""
    (folder / "file").write_text("mine")
    with started(command(models, f"--{door}-address=unix:{folder / name}"), tmp_path / "log") as process:
        code, said = process.ended()
    assert code == 1
    assert f"cannot listen at 'unix:{folder / name}'" in said
    assert (folder / "file").read_text() == "mine"


def test_tls_over_abstract_unix_sockets(models, tmp_path):
    """Goal: names of the kernel, without files, for both doors; and TLS does not ask what is below it."""
    certificates = Certificates.write(tmp_path)
    name = f"despina-{os.getpid()}"
    made = [f"--{door}-address=unix:@{name}-{door}" for door in ("http", "grpc")]
    for door in ("http", "grpc"):
        made += [f"--{door}-use-ssl=true", f"--{door}-server-cert={certificates.path('server.pem')}"]
        made += [f"--{door}-server-key={certificates.path('server.key')}"]
    with serving(models, tmp_path / "log", *made):
        plain = reached(f"\0{name}-http")
        with certificates.client_context().wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(READY)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        with tritonclient.grpc.InferenceServerClient(
            f"unix-abstract:{name}-grpc",
            ssl=True,
            root_certificates=certificates.path("root.pem"),
            channel_args=[("grpc.ssl_target_name_override", "localhost")],
        ) as client:
            assert client.infer("simple", sums(tritonclient.grpc, 7)).as_numpy("OUTPUT0")[0, 0] == 7


# --- Shared ports


def asked(stack, port):
    """A connection that has asked for the server's name, until `stack` closes it."""
    sock = stack.enter_context(connect(port))
    sock.sendall(b"GET /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    return sock


def who_answers(door, port):
    """The name of the server that a new connection comes to."""
    if door == "grpc":
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}", channel_args=ALONE) as client:
            return client.get_server_metadata().name
    with contextlib.ExitStack() as stack:
        sock = asked(stack, port)
        return json.loads(read_to_end(sock).partition(b"\r\n\r\n")[2])["name"]


def test_shared_ports(models, tmp_path):
    """Goal: two processes share both ports and both get clients; a third that does not share is turned away; when one
    stops, the other gets all. Method: 40 connections miss one of two once in 2**39 times."""
    with contextlib.ExitStack() as stack:
        shared = ["--reuse-http-port=true", "--reuse-grpc-port=true"]
        one = stack.enter_context(serving(models, tmp_path / "one", "--id=one", *shared))
        ports = {"http": one.http_port, "grpc": one.grpc_port}
        shared += [f"--{door}-port={port}" for door, port in ports.items()]
        two = stack.enter_context(serving(models, tmp_path / "two", "--id=two", *shared))
        assert (two.http_port, two.grpc_port) == (one.http_port, one.grpc_port)
        for door, port in ports.items():
            assert set(collections.Counter(who_answers(door, port) for _ in range(40))) == {"one", "two"}
        with started(command(models, f"--http-port={one.http_port}"), tmp_path / "three") as three:
            code, said = three.ended()
        assert code == 1
        assert f"Socket '127.0.0.1:{one.http_port}' already in use" in said
        one.terminate()
        assert one.ended()[0] == 0
        for door, port in ports.items():
            assert [who_answers(door, port) for _ in range(10)] == ["two"] * 10


# --- Sockets that are passed on


@contextlib.contextmanager
def listening():
    """Two listening sockets of the loopback, which a service manager would hold."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as first,
        socket.create_server(("127.0.0.1", 0), backlog=64) as second,
    ):
        yield first, second


def test_restart_on_passed_on_sockets(models, tmp_path):
    """Goal: with LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES a server takes the sockets by their names; its successor
    takes them over: no client in between is refused, and those of the first are answered."""
    with listening() as (for_grpc, for_http), contextlib.ExitStack() as stack:
        ports = {"http": for_http.getsockname()[1], "grpc": for_grpc.getsockname()[1]}

        def start(name):
            line = command(models, f"--id={name}")
            process = stack.enter_context(
                activated(line, tmp_path / name, [for_grpc, for_http], LISTEN_FDNAMES="grpc:http")
            )
            process.place("Metrics Service")
            return process

        early = asked(stack, ports["http"])  # before there is a server
        one = start("one")
        assert b'"name":"one"' in read_to_end(early)
        assert (one.http_port, one.grpc_port) == (ports["http"], ports["grpc"])
        assert {who_answers(door, port) for door, port in ports.items()} == {"one"}
        client = stack.enter_context(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{ports['grpc']}"))
        answers = occupy(one, client, 1)
        flying = stack.enter_context(connect(ports["http"]))
        flying.sendall(nap_request(0.01))
        until_waiting(one, 2)
        one.terminate()
        one.said("(Waiting for in-flight)")
        client.stop_stream()
        client.close()
        late = asked(stack, ports["http"])
        assert [answers.get(timeout=WAIT_S) for _ in range(2)] == [None, None]
        assert b" 200 OK" in read_to_end(flying)
        assert one.ended()[0] == 0
        between = asked(stack, ports["http"])
        start("two")
        for sock in (late, between):
            assert b'"name":"two"' in read_to_end(sock)
        assert who_answers("grpc", ports["grpc"]) == "two"


def test_several_sockets_of_a_door(models, folder, tmp_path):
    """Goal: a door has a TCP and a Unix socket; the file of the latter, which is its maker's, stays."""
    with listening() as (first, second), socket.socket(socket.AF_UNIX) as third:
        third.bind(str(folder / "grpc"))
        third.listen()
        line = command(models)
        names = "http:grpc:grpc"
        with activated(line, tmp_path / "log", [first, second, third], LISTEN_FDNAMES=names) as server:
            assert server.http_port == first.getsockname()[1]
            server.place("Metrics Service")
            for target in (f"127.0.0.1:{second.getsockname()[1]}", f"unix:{folder / 'grpc'}"):
                with tritonclient.grpc.InferenceServerClient(target) as client:
                    assert client.infer("simple", sums(tritonclient.grpc, 7)).as_numpy("OUTPUT0")[0, 0] == 7
            server.terminate()
            assert server.ended()[0] == 0
        assert (folder / "grpc").is_socket()


def test_sockets_of_somebody_else(models, tmp_path):
    """Goal: variables that name another process, which a parent left behind, are not followed."""
    with listening() as both, activated(command(models), tmp_path / "log", both, LISTEN_PID="1") as server:
        server.place("Metrics Service")
        assert {server.http_port, server.grpc_port}.isdisjoint(sock.getsockname()[1] for sock in both)
        assert who_answers("http", server.http_port) == "triton"


def test_wrong_variables(models, tmp_path):
    """Goal: what cannot be taken over ends the start with the reason."""
    with listening() as both, activated(command(models), tmp_path / "log", both, LISTEN_FDS="3") as server:
        code, said = server.ended()
    assert code == 1
    assert "descriptor 5 was passed on, but is no socket" in said
