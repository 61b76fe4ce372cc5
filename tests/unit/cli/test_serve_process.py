"""`despina serve` as its users meet it: a process with options, ports, signals and an exit code."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import orjson
import pytest

from tests.unit.cli.child import MODEL, WAIT_S, Serving, add_model, run, send

PASSED_SOCKET = [
    sys.executable,
    "-c",
    "import os, sys; os.dup2(int(sys.argv.pop(1)), 3); os.environ.update(LISTEN_FDS='1')\n"
    "from despina.frontends.cli import main; main()",
]
"""The command with a listening socket passed on: clients wait in its backlog, so that no line has to be read first."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    return folder


def infer(port, seconds, sent):
    """Status and answer; `sent` is the barrier between all requests sent and the first answer read."""
    connection = send(port, seconds)
    sent.wait(WAIT_S)
    answer = connection.getresponse()
    data = orjson.loads(answer.read())
    connection.close()
    return answer.status, data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_drains(repository, number):
    """Goal: start, answer, show the tables; on a signal 32 requests in flight are all answered, idle connections do not
    hold it up, and it exits 0 in less than 2 s. Method: real process, real signal."""
    with Serving(f"--model-repository={repository}") as server:
        port = server.port("HTTPService")
        metrics = server.port("Metrics Service")
        idle = [socket.create_connection(("127.0.0.1", where)) for where in (port, metrics, server.port("GRPC.*"))]
        answers = []
        sent = threading.Barrier(33)
        callers = [threading.Thread(target=lambda: answers.append(infer(port, 0.3, sent))) for _ in range(32)]
        for caller in callers:
            caller.start()
        sent.wait(WAIT_S)
        for _ in range(2):  # the same loop reads both doors: what came before a scrape has been read after it
            assert "nv_inference_pending_request_count" in scrape(metrics)
        asked = time.monotonic()
        server.process.send_signal(number)
        for caller in callers:
            caller.join()
        code, output = server.end()
        took = time.monotonic() - asked
        for connection in idle:
            connection.close()
    assert [status for status, _ in answers] == [200] * 32
    assert all(data["outputs"][0]["data"] == pytest.approx([0.6]) for _, data in answers)
    assert code == 0, output
    assert took < 20  # not the timeouts of idle connections
    assert f"Signal ({number.value}) received." in output
    order = re.findall(r"Started (\w+)", output)
    assert order == ["GRPCInferenceService", "HTTPService", "Metrics"]
    assert re.search(r"\| sleeper +\| 1 +\| READY +\|", output)
    assert re.search(r"\| strict_readiness +\| true +\|", output)


def scrape(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def wait_until_executing(port):
    """The loop that answers these has read what was sent before, and the idle instance took it at once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    for _ in range(2):
        connection.request("GET", "/v2/models/sleeper/stats")
        connection.getresponse().read()
    connection.close()


def test_repeated_signals_drop_nothing(repository):
    """Goal: a terminal and a parent that both pass a signal on, or a hang-up on top, take no answer away. Method: one
    request in flight, four signals in a row."""
    with Serving(f"--model-repository={repository}", "--allow-grpc=false", "--allow-metrics=false") as server:
        port = server.port("HTTPService")
        connection = send(port, 0.5)
        wait_until_executing(port)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            server.process.send_signal(number)
            server.wait_for(rf"Signal \({number.value}\) received")
        assert connection.getresponse().status == 200
        connection.close()
        code, output = server.end()
    assert code == 0, output


def test_hang_up_reopens_the_log_file(repository, tmp_path):
    """Goal: with a log file SIGHUP means that it was moved away: the next line goes to a new one, and nothing ends."""
    path = tmp_path / "server.log"
    options = [f"--log-file={path}", "--allow-grpc=false", "--allow-metrics=false"]
    with Serving(f"--model-repository={repository}", *options) as server:
        wait_for_text(path, "Started HTTPService")
        path.rename(tmp_path / "old.log")
        server.process.send_signal(signal.SIGHUP)
        wait_for_text(path, "anew")
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
    assert "Waiting for in-flight" in path.read_text()
    assert "Waiting for in-flight" not in (tmp_path / "old.log").read_text()


def wait_for_text(path, text):
    deadline = time.monotonic() + WAIT_S
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, f"{text!r} is not in {path}"
        time.sleep(0.01)


@pytest.mark.parametrize("full", ["log file", "stdout"])
def test_full_disk(repository, full):
    """Goal: a log that cannot be written costs lines, never requests or the exit code, and no traceback."""
    options = ["--http-port=0", "--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
    if full == "log file":
        options.append("--log-file=/dev/full")
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, open("/dev/full", "wb") as full_disk:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [*PASSED_SOCKET, str(listening.fileno()), "serve", f"--model-repository={repository}", *options],
            stdout=full_disk if full == "stdout" else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listening.fileno()],
        )
        try:
            assert send(port, 0).getresponse().status == 200
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    expected = "error: /dev/full: No space left on device; lines of the log are lost\n" if full == "log file" else ""
    assert said == expected


def test_exit_timeout_is_kept(repository):
    """Goal: work that outlasts --exit-timeout-secs does not hold the process; it says so and exits 1."""
    options = ["--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=0.2"]
    with Serving(f"--model-repository={repository}", *options) as server:
        port = server.port("HTTPService")
        connection = send(port, 60)
        wait_until_executing(port)
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code, output = server.end()
        connection.close()
    assert code == 1
    assert "Exit timeout expired" in output
    assert time.monotonic() - asked < 20


def test_failed_model_ends_the_start(tmp_path):
    """Goal: with --exit-on-error (the default) exit 1 and the reason in the table; without it the rest is served."""
    add_model(tmp_path, "broken", "raise RuntimeError('it is broken')")
    with Serving(f"--model-repository={tmp_path}") as server:
        code, output = server.end()
    assert code == 1
    assert "error: creating server: Internal - failed to load all models" in output
    assert "it is broken" in output
    with Serving(f"--model-repository={tmp_path}", "--exit-on-error=false", DESPINA_ALLOW_GRPC="off") as server:
        port = server.port("HTTPService")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        statuses = []
        for path in ("/v2/health/live", "/v2/health/ready"):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0
    assert statuses == [200, 400]


def test_a_cache_that_does_not_answer_ends_the_start(repository):
    """Goal: exit 1, and why: nobody should believe that answers are kept."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    for setting, text in (
        (f"redis,port={port}", "Internal - Failed to ping Redis server."),
        ("local,size=many", "Invalid argument - Failed to initialize LocalCache: 'size' must be a number of bytes"),
    ):
        redis = ("--cache-config=redis,host=127.0.0.1",) if "redis" in setting else ()
        with Serving(f"--model-repository={repository}", *redis, f"--cache-config={setting}") as server:
            code, output = server.end()
        assert code == 1
        assert f"error: creating server: {text}" in output


def test_taken_port(repository):
    """Goal: a port in use is found before models load; the protocol's words; exit 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Serving(f"--model-repository={repository}", f"--http-port={port}") as server:
            code, output = server.end()
    assert code == 1
    assert output.splitlines()[0] == f"Socket '127.0.0.1:{port}' already in use "


def test_mistakes_and_help():
    """Goal: mistakes go to stderr after the usage, exit 1; help and version go to stdout, exit 0."""
    done = run("serve", "--http-port=abc", "--nonsense")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Usage: despina serve")
    assert 'Bad option: "--http-port".\nInvalid option value. Got abc' in done.stderr
    assert "--nonsense" in done.stderr
    assert run("--version").stdout.startswith("despina ")
    done = run("serve", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert run("sing").returncode == 1
    done = run("serve", "--model-repository=/no/such/place")
    assert done.returncode == 1
    assert done.stderr == "error: creating server: Internal - failed to stat file /no/such/place\n"
