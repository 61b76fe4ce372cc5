"""SIGTERM amid HTTP clients of every kind: what is in flight is answered, nobody's write fails, and the process ends
well and soon."""

from __future__ import annotations

import http.client
import threading
import time

import pytest

from tests.conformance.napping import nap_request
from tests.conformance.processes import serving
from tests.conformance.wire import READY, connect, read_to_end, wire_models

CALLS = 32
HALVES = (
    b"POST /v2/models/simple/inf",
    b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n{",
    b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
)


class Caller(threading.Thread):
    """Asks one request after the other on a connection, as a pool of connections does, until it is told to close."""

    def __init__(self, port):
        super().__init__()
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.count = 0
        self.problem = None
        self.start()

    def run(self):
        try:
            while True:
                self.connection.request("GET", "/v2/health/live")
                reply = self.connection.getresponse()
                reply.read()
                self.count += 1
                if reply.getheader("Connection") == "close":
                    return
        except Exception as problem:
            self.problem = problem
        finally:
            self.connection.close()


@pytest.mark.parametrize("program", ["trio", "hypercorn"])
def test_sigterm_amid_everything(tmp_path, program):
    """32 requests in flight, idle connections, half heads and bodies, busy callers: all requests are answered, no write
    of a caller fails, exit 0 within two seconds."""
    with serving(wire_models(tmp_path), tmp_path / "log", f"--http-server={program}") as server:
        idle = [connect(server.http_port) for _ in range(20)]
        flying = [connect(server.http_port) for _ in range(CALLS)]
        for sock in (*idle[:10], *flying):
            sock.sendall(READY)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        halves = [connect(server.http_port) for _ in range(12)]
        for place, sock in enumerate(halves):
            sock.sendall(HALVES[place % len(HALVES)])
        for sock in flying:
            sock.sendall(nap_request(0.01))
        callers = [Caller(server.http_port) for _ in range(4)]
        while not all(caller.count > 3 for caller in callers):
            time.sleep(0.01)
        begin = time.monotonic()
        server.terminate()
        for sock in flying:
            assert read_to_end(sock).startswith(b"HTTP/1.1 200 ")
        code, log = server.ended()
        assert code == 0, log
        assert time.monotonic() - begin < 15
        for caller in callers:
            caller.join()
            assert caller.problem is None
        for sock in (*idle, *halves):
            sock.close()
