"""The end of a server that distributors of requests can see coming: one slow request in flight, real process."""

import http.client
import json
import signal
import threading
import time

import pytest

from tests.unit.cli.child import MODEL, WAIT_S, Serving, add_model, send


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    return folder


def get(port, path):
    """Status, body, and whether the reply is its connection's last."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.getheader("Connection")
    finally:
        connection.close()


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_open(port):
    try:
        get(port, "/v2/health/live")
    except ConnectionError:
        return False
    return True


def test_lame_duck_then_drain(repository):
    """Goal: told to stop, it is not ready and says why, serves on, and tells keep-alive callers to leave; then the
    doors close, while metrics and health go on until what is in flight has been answered; exit code 0."""
    options = ["--lame-duck-secs=1.5", "--exit-timeout-secs=20", "--allow-grpc=false"]
    with Serving(f"--model-repository={repository}", *options) as server:
        port, metrics = server.port("HTTPService"), server.port("Metrics Service")
        assert get(port, "/v2/health/ready") == (200, b"", None)
        assert json.loads(get(metrics, "/v2/health/ready")[1]) == {"ready": True, "not_ready": []}
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        kept.request("GET", "/v2/health/live")
        assert kept.getresponse().read() == b""
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Not ready from now on")

        status, body, last = get(port, "/v2/health/ready")
        assert (status, last) == (400, "close")
        assert json.loads(body) == {"ready": False, "not_ready": ["the server is draining: it will stop"]}
        assert get(port, "/v2/health/live")[0] == 200
        sock = kept.sock
        kept.request("GET", "/v2/models/sleeper/ready")  # over the connection that is open
        assert kept.sock is sock
        reply = kept.getresponse()
        assert (reply.status, reply.getheader("Connection")) == (200, "close")
        with_body = send(port, 0.0)
        assert with_body.getresponse().status == 200
        for one in (kept, with_body):
            one.close()
        slow = send(port, 3.5)

        server.wait_for("Waiting for in-flight")
        until(lambda: not is_open(port))
        assert get(metrics, "/v2/health/live")[0] == 200
        assert json.loads(get(metrics, "/v2/health/ready")[1])["not_ready"]
        assert b'despina_inflight_request_count{model="sleeper",version="1"} 1' in get(metrics, "/metrics")[1]
        assert slow.getresponse().status == 200
        slow.close()
        code, output = server.end()
    assert code == 0, output


def test_no_write_fails(repository):
    """Goal: callers who ask all the time over kept connections, and reconnect when they were told to, never see a
    connection end without an answer, up to the moment when the door is closed."""
    failed, answered, told = [], [], []

    def ask(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        while True:
            fresh = connection.sock is None
            try:
                if fresh:
                    connection.connect()
            except ConnectionRefusedError:
                return  # the door is closed: the next server's turn
            try:
                connection.request("GET", "/v2/models/sleeper/ready")
                reply = connection.getresponse()
                reply.read()
                answered.append(reply.status)
                told.append(reply.getheader("Connection"))
            except (ConnectionError, http.client.HTTPException) as problem:
                failed.append((fresh, problem))
                return
            time.sleep(0.01)

    options = ["--lame-duck-secs=1", "--allow-grpc=false", "--allow-metrics=false"]
    with Serving(f"--model-repository={repository}", *options) as server:
        port = server.port("HTTPService")
        callers = [threading.Thread(target=ask, args=(port,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        until(lambda: len(answered) > 100)
        server.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(WAIT_S)
        code, output = server.end()
    assert code == 0, output
    assert not failed
    assert set(answered) == {200}
    assert None in told
    assert "close" in told
