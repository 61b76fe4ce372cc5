"""Python models with `is_ready`: what a client who asks is told, in this process and in one of their own."""

from __future__ import annotations

import numpy as np
import pytest
import trio

from tests.doors import both_doors

CONFIG = """
backend: "python"
model_transaction_policy { decoupled: %s }
input [{ name: "IN" data_type: TYPE_STRING dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODEL = """
import asyncio, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        self.says = "True"
    def answered(self, request):
        self.says = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().item().decode()
        while self.says == "busy":
            time.sleep(0.01)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([self.says.encode()], object))])
"""
PLAIN = """
    def execute(self, requests):
        return [self.answered(request) for request in requests]
    def is_ready(self):
        if self.says == "busy":
            self.says = "done"
        return eval(self.says)
"""
COROUTINES = """
    async def execute(self, requests):
        return [self.answered(request) for request in requests]
    async def is_ready(self):
        await asyncio.sleep(0)
        return eval(self.says)
"""
DECOUPLED = """
    async def execute(self, requests):
        self.loop = asyncio.get_running_loop()
        for request in requests:
            request.get_response_sender().send(self.answered(request), 1)
    async def is_ready(self):
        assert self.says == "True" or asyncio.get_running_loop() is self.loop
        return eval(self.says)
"""


@pytest.fixture(params=["none", "process"])
def opened(request, tmp_path):
    """`async with opened(methods) as doors`: both doors over a model with these methods."""

    def open_it(methods):
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(CONFIG % str(methods == DECOUPLED).lower())
        (tmp_path / "m" / "1" / "model.py").write_text(MODEL + methods)
        return both_doors(tmp_path, backend_config={"python": {"isolation": request.param}})

    return open_it


async def say(engine, text):
    with trio.fail_after(20):
        return [result async for result in engine.stream("m", {"IN": np.array([text.encode()], object)})]


@pytest.mark.parametrize("methods", [PLAIN, COROUTINES, DECOUPLED], ids=["plain", "coroutines", "decoupled"])
async def test_what_the_model_says(opened, methods, caplog):
    """It is asked each time; what is no bool, and what it raises, is a no with a line in the log."""
    async with opened(methods) as doors:
        assert await doors.engine.says_ready("m")
        for said, ready in [("False", False), ("True", True), ("1", False), ("1 / 0", False), ("True", True)]:
            await say(doors.engine, said)
            with trio.fail_after(20):
                assert await doors.engine.says_ready("m") is ready, said
            assert doors.engine.is_model_ready("m")
    assert "is_ready() must return a boolean value" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_model_that_is_busy(opened):
    """It is asked while it executes: this one goes on once it was."""
    async with opened(PLAIN) as doors, trio.open_nursery() as nursery:
        nursery.start_soon(say, doors.engine, "busy")
        with trio.fail_after(20):
            while await doors.engine.says_ready("m"):
                """Not yet; once it was asked amid its execution, which then ends, it says what is no name."""


async def test_what_clients_hear(opened):
    """Of a model that says no, on both doors."""
    async with opened(PLAIN) as doors:
        await say(doors.engine, "False")
        http, grpc = await doors.http_caller(), await doors.grpc_caller()
        with trio.fail_after(20):
            head, _ = await http.ask("/v2/models/m/ready", b"")
            assert head.startswith(b"HTTP/1.1 405 ")
            await http.stream.send_all(b"GET /v2/models/m/ready HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = await http.stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"Model version not ready" in answer
            message, headers = await grpc.ask("/inference.GRPCInferenceService/ModelReady", b"\n\x01m")
            assert (message[5:], headers["grpc-status"]) == (b"", "0"), "ready: false is no field"
