"""Requests that are under way when a test wants them to be, on the model `nap`, which sleeps as long as it is told.

The first of a stream executes, the second waits behind it, and so does whatever comes later: how many wait is known
from the metrics page, so that no test must guess when a request has arrived.
"""

from __future__ import annotations

import queue
import time
import urllib.request
from typing import TYPE_CHECKING

import tritonclient.grpc
import tritonclient.http

from tests.conformance.inputs import nap
from tests.conformance.wire import WAIT_S

if TYPE_CHECKING:
    from tests.conformance.processes import Process


def nap_request(seconds: float) -> bytes:
    """The same over HTTP, as the real client writes it. The connection ends after the answer."""
    body, length = tritonclient.http.InferenceServerClient.generate_request_body(nap(tritonclient.http, seconds))
    head = f"POST /v2/models/nap/infer HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Inference-Header-Content-Length: {length}\r\n\r\n".encode() + body


def occupy(
    server: Process, client: tritonclient.grpc.InferenceServerClient, seconds: float
) -> queue.SimpleQueue[Exception | None]:
    """Gives `nap` work for so long, and a short request that waits behind it. Their two errors, or None, by and by."""
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put(error))
    for one in (seconds, 0.001):
        client.async_stream_infer("nap", nap(tritonclient.grpc, one))
    until_waiting(server, 1)
    return answers


def until_waiting(server: Process, count: int) -> None:
    """Returns when that many requests wait for `nap` to be free."""
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        with urllib.request.urlopen(f"http://{server.place('Metrics Service')}/metrics", timeout=WAIT_S) as reply:
            page = reply.read().decode()
        if f'nv_inference_pending_request_count{{model="nap",version="1"}} {count}' in page:
            return
        time.sleep(0.02)
    raise AssertionError(f"there are never {count} requests waiting")
