"""Callers of both doors, each with a connection of its own, who count what they got.

A request is failed when it was sent and not answered rightly. To find the door closed before sending is not: that is
how a server that ends looks, and what whoever distributes requests answers by going elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs
import grpc
from despina.schema.wire.generated.inference import ModelInferRequest, ModelInferRequestInferInputTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLERS = 4
"""On each door."""
_ONES = [1] * 16
_BODY = json.dumps(
    {"inputs": [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [1, 16], "data": _ONES} for n in (0, 1)]}
).encode()
_TWOS = b'"data":[2,2,2,2,2,2,2,2,2,2,2,2,2,2,2,2]'
_MESSAGE = bytes(
    ModelInferRequest(
        model_name="addsub",
        inputs=[ModelInferRequestInferInputTensor(name=f"INPUT{n}", datatype="INT32", shape=[1, 16]) for n in (0, 1)],
        raw_input_contents=[b"\x01\0\0\0" * 16] * 2,
    )
)
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@attrs.define
class Count:
    """Of one door."""

    answered: int = 0
    refused: int = 0
    """Connections that nobody took."""
    failed: list[str] = attrs.field(factory=list)


@attrs.define
class Load:
    """What both doors' callers got so far."""

    http: Count = attrs.field(factory=Count)
    grpc: Count = attrs.field(factory=Count)

    def answered_more(self, count: int, seconds: float = 30.0) -> None:
        """Waits until both doors have answered so many more."""
        goal = self.http.answered + count, self.grpc.answered + count
        give_up = time.monotonic() + seconds
        while self.http.answered < goal[0] or self.grpc.answered < goal[1]:
            assert time.monotonic() < give_up, f"no answers: {self}"
            time.sleep(0.01)

    @property
    def failed(self) -> list[str]:
        return self.http.failed + self.grpc.failed


@contextlib.contextmanager
def load(http: str, grpc_address: str, *, until_refused: bool) -> Iterator[Load]:
    """Callers of `addsub` for the length of the block, one request after the other. With `until_refused` a caller ends
    when its door is closed; else it tries again."""
    counts, over = Load(), threading.Event()

    def run(ask: Callable[[], None], count: Count) -> None:
        while not over.is_set():
            try:
                ask()
            except ConnectionRefusedError:
                count.refused += 1
                if until_refused:
                    return
                over.wait(0.02)
            except Exception as problem:
                count.failed.append(repr(problem)[:300])
                over.wait(0.02)
            else:
                count.answered += 1

    threads = []
    with contextlib.ExitStack() as stack:
        for _ in range(CALLERS):
            http_caller, grpc_caller = _HttpCaller(http), _GrpcCaller(grpc_address)
            stack.callback(http_caller.close)
            stack.callback(grpc_caller.close)
            threads.append(threading.Thread(target=run, args=(http_caller.ask, counts.http), daemon=True))
            threads.append(threading.Thread(target=run, args=(grpc_caller.ask, counts.grpc), daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield counts
        finally:
            over.set()
            for thread in threads:
                thread.join(30)


class _HttpCaller:
    """Keeps its connection for as long as the server does, and reads what the server says of that."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> None:
        if self._connection is None:
            connection = http.client.HTTPConnection(self._address, timeout=20)
            connection.connect()
            self._connection = connection
        try:
            self._connection.request("POST", "/v2/models/addsub/infer", _BODY)
            answer = self._connection.getresponse()
            body = answer.read()
        except ConnectionRefusedError as problem:  # of a request that is on its way this is no good answer
            self.close()
            raise ConnectionError(str(problem)) from problem
        except BaseException:
            self.close()
            raise
        if answer.will_close:
            self.close()
        assert answer.status == 200, f"{answer.status} {body[:200]!r}"
        assert _TWOS in body, body[:200]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _GrpcCaller:
    def __init__(self, address: str) -> None:
        # Each its own connection, and no minute of patience before the next attempt to connect.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
        self._channel = grpc.insecure_channel(address, options)
        self._infer: Any = self._channel.unary_unary(_METHOD)

    def ask(self) -> None:
        try:
            answer = self._infer(_MESSAGE, timeout=20)
        except grpc.RpcError as problem:
            if problem.code() == grpc.StatusCode.UNAVAILABLE and "onnect" in problem.details().partition(";")[0]:
                words = problem.details()
                if "Connection refused" in words:
                    raise ConnectionRefusedError(words) from problem
            raise
        assert b"\x02\0\0\0" * 16 in answer

    def close(self) -> None:
        self._channel.close()
