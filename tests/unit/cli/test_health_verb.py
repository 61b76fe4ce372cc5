"""`despina health` against a real server, and where there is none."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.unit.cli.child import MODEL, WAIT_S, Serving, add_model, run


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Of a server with one model that serves and one that does not, ready all the same."""
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    add_model(folder, "broken", "raise RuntimeError('no weights')")
    options = ["--exit-on-error=false", "--strict-readiness=false", "--allow-metrics=false"]
    with Serving(f"--model-repository={folder}", *options) as server:
        yield {
            "http": f"http://127.0.0.1:{server.port('HTTPService')}",
            "grpc": f"grpc://127.0.0.1:{server.port('GRPC.*')}",
        }


@pytest.mark.parametrize(
    ("door", "arguments", "said", "not_ready"),
    [
        ("http", [], "ready", []),
        ("http", ["--live"], "live", []),
        ("http", ["sleeper", "broken", "no such"], "", ["'broken'", "'no such'"]),
        ("grpc", ["sleeper"], "ready", []),
        ("grpc", ["sleeper", "broken"], "", ["'broken'"]),
    ],
)
def test_a_server_that_runs(urls, door, arguments, said, not_ready):
    """Goal: server and models, both protocols: an exit code for machines, a word for people."""
    done = run("health", *arguments, "--url", urls[door])
    assert (done.returncode, done.stdout.strip()) == (1 if not_ready else 0, said)
    lines = done.stderr.splitlines()
    assert len(lines) == len(not_ready)
    assert all(line.startswith(f"not ready: model {name}") for line, name in zip(lines, not_ready, strict=True))


def test_nobody_answers():
    """Goal: a port that nobody listens on, and one where nobody answers, are unhealthy in the time given."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = run("health", "--url", f"127.0.0.1:{port}", "--timeout", "0.2")
        assert (done.returncode, done.stdout) == (1, "")
        assert "timed out" in done.stderr
    done = run("health", "--url", f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (b"400 Bad Request", b'{"ready":false,"not_ready":["model a","model b"]}', ["model a", "model b"]),
        (b"400 Bad Request", b'{"error":"restricted"}', ["the server: restricted"]),
        (b"503 Service Unavailable", b"<html>", ["the server (HTTP 503)"]),
        (b"503 Service Unavailable", b"[1]", ["the server (HTTP 503)"]),
    ],
)
def test_why_it_is_not_ready(status, body, said):
    """Goal: each part that is not ready in a line of its own; a body that is something else is no reason to fail."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answer():
            client, _ = door.accept()
            client.recv(4096)
            client.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = run("health", "--url", f"127.0.0.1:{door.getsockname()[1]}")
        thread.join(WAIT_S)
    assert (done.returncode, done.stderr.splitlines()) == (1, [f"not ready: {part}" for part in said])


def test_a_question_that_makes_no_sense():
    """Goal: a model is not live or dead."""
    done = run("health", "--live", "resnet")
    assert done.returncode == 1
    assert "--live is asked of a server" in done.stderr
