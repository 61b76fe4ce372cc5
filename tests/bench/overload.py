"""What is left of a model's capacity when more comes than it can do: an open loop against a real server.

    python tests/bench/overload.py [--load TIMES] [--seconds SECONDS]

The model waits as one for a device does, and answers one request at a time. What it can do is measured first, in a
closed loop. Then requests come at random times, whatever becomes of those before, from two kinds of callers: over gRPC
with deadlines of 20 ms; over HTTP, who leave without a word after 50 ms. Good is what was answered in time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import trio
from tritonclient.grpc import service_pb2, service_pb2_grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.models import write_config, write_python
from tests.conformance.servers import running_in_process

if TYPE_CHECKING:
    from collections.abc import Sequence

COST_S = 0.004
DEADLINE_S = 0.02
PATIENCE_S = 0.05
CLOSED_CALLERS = 4
MODEL = f"""import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep({COST_S})
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]) for array in inputs]
"""


def write_model(root: Path) -> None:
    """One model that executes a single request at a time."""
    write_config(root, "slow", "python", 0, [("INPUT0", "INT32", "1")], [("OUTPUT0", "INT32", "1")])
    write_python(root, "slow", MODEL)


class HttpCallers:
    """Callers with connections that are kept for the next one, unless their caller has left."""

    def __init__(self, port: int) -> None:
        body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "INT32", "shape": [1], "data": [7]}]}).encode()
        head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        self._request = head % len(body) + body
        self._port = port
        self._idle: list[trio.SocketStream] = []
        self.good = 0

    async def call(self) -> None:
        """One request, until it is answered or the caller has had enough."""
        stream = self._idle.pop() if self._idle else None
        answered = False
        try:
            with trio.move_on_after(PATIENCE_S):
                if stream is None:
                    stream = await trio.open_tcp_stream("127.0.0.1", self._port)
                await stream.send_all(self._request)
                answered = await _is_answered(stream)
        finally:
            if stream is not None and answered:
                self._idle.append(stream)
            elif stream is not None:
                stream.socket.close()
        self.good += answered

    async def flood(self, rate: float, seconds: float) -> None:
        """So many a second, whatever becomes of them."""
        chance = random.Random(0)
        async with trio.open_nursery() as nursery:
            at = began = trio.current_time()
            while at < began + seconds:
                await trio.sleep_until(at)
                nursery.start_soon(self.call)
                at += chance.expovariate(rate)

    async def closed(self, seconds: float) -> None:
        """A few callers, each of whom waits for his answer."""

        async def caller() -> None:
            until = trio.current_time() + seconds
            while trio.current_time() < until:
                await self.call()

        async with trio.open_nursery() as nursery:
            for _ in range(CLOSED_CALLERS):
                nursery.start_soon(caller)


async def _is_answered(stream: trio.SocketStream) -> bool:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        data = await stream.receive_some()
        if not data:
            return False
        received += data
    assert received.startswith(b"HTTP/1.1 200 ") == (b'"data":[7]' in received), received
    return received.startswith(b"HTTP/1.1 200 ")


class GrpcCallers:
    """Callers who say how long they wait."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        tensor = service_pb2.ModelInferRequest.InferInputTensor(name="INPUT0", datatype="INT32", shape=[1])
        self._request = service_pb2.ModelInferRequest(model_name="slow", inputs=[tensor])
        self._request.raw_input_contents.append(np.int32(7).tobytes())
        self._lock = threading.Lock()
        self.good = 0

    def flood(self, rate: float, seconds: float) -> None:
        """See HttpCallers."""
        chance = random.Random(0)
        at = began = time.monotonic()
        calls = []
        while at < began + seconds:
            time.sleep(max(0.0, at - time.monotonic()))
            call = self._stub.ModelInfer.future(self._request, timeout=DEADLINE_S)
            call.add_done_callback(self._done)
            calls.append(call)
            at += chance.expovariate(rate)
        for call in calls:
            call.exception()
        self._channel.close()

    def _done(self, call: grpc.Future) -> None:
        if call.code() is grpc.StatusCode.OK:
            with self._lock:
                self.good += 1


def measure(load: float, seconds: float) -> list[tuple[str, float, float]]:
    """Rows: which callers and order, requests a second that were good, and how much of the capacity that is."""
    rows = []
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_model(root / "models")
        for order in ("arrival", "adaptive"):
            with running_in_process(root / "models", root / order, [f"--queue-order={order}"]) as server:
                closed = HttpCallers(server.http_port)
                trio.run(closed.closed, seconds)
                capacity = closed.good / seconds
                callers = HttpCallers(server.http_port)
                trio.run(callers.flood, load * capacity, seconds)
                rows.append((f"HTTP, leave after 50 ms, {order}", callers.good / seconds, capacity))
                known = GrpcCallers(server.grpc_port)
                known.flood(load * capacity, seconds)
                rows.append((f"gRPC, deadlines of 20 ms, {order}", known.good / seconds, capacity))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=float, default=1.5, help="of what the model can do")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    print(f"| callers, order | good/s | can do/s | share at {options.load:g} times |\n|---|---|---|---|")
    for name, good, capacity in measure(options.load, options.seconds):
        print(f"| {name} | {good:.0f} | {capacity:.0f} | {good / capacity:.2f} |")


if __name__ == "__main__":
    main()
