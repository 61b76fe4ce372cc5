"""Ordinary Python models that answer after `execute` has returned: from threads, or never."""

from __future__ import annotations

import sys
import textwrap
import threading
from types import SimpleNamespace

import despina
import numpy as np
import pytest
import trio
from despina.schema.fault import DeadlineExceeded, ModelFailure, ShuttingDown
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor

from tests import in_process

CONFIG = """
backend: "python"
max_batch_size: 4
input [{ name: "IN" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
PRELUDE = """
import gc, sys, threading
import numpy as np
import triton_python_backend_utils as pb_utils
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
HOLD, THREADS = sys.modules["late_meeting"].shared
def number(request):
    return int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0])
def doubled(request):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[2 * number(request)]], np.int32))])
def later(function, *arguments):
    THREADS.append(threading.Thread(target=function, args=arguments))
    THREADS[-1].start()
class TritonPythonModel:
    def answer(self, request, sender):
        HOLD.wait(10)
        sender.send(doubled(request), FINAL)
"""
LATER = """
def execute(self, requests):
    for request in requests:
        later(self.answer, request, request.get_response_sender())
"""


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens an engine over the model `m`: `async with opened(methods, more configuration) as engine`."""
    opened.hold, opened.threads = threading.Event(), []
    monkeypatch.setitem(sys.modules, "late_meeting", SimpleNamespace(shared=(opened.hold, opened.threads)))

    def opening(methods, more="", **options):
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(CONFIG + more)
        (tmp_path / "m" / "1" / "model.py").write_text(PRELUDE + textwrap.indent(textwrap.dedent(methods), "    "))
        return despina.open_engine(tmp_path, backend_config=in_process.SETTING, **options)

    opening.hold, opening.threads = opened.hold, opened.threads
    yield opening
    opened.hold.set()
    for thread in opened.threads:
        thread.join()


async def asked(engine, value, **options):
    """The model's answer."""
    with trio.fail_after(15):
        return int((await engine.infer("m", {"IN": np.array([[value]], np.int32)}, **options))["OUT"][0, 0])


async def until(condition):
    """Waits for what other threads bring about."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  other threads
            await trio.sleep(0.005)


async def test_the_instance_is_free_while_answers_are_under_way(opened):
    """Every request is executed before the first is answered; then each has its own answer, and is counted once."""
    got = {}
    async with opened(LATER) as engine, trio.open_nursery() as nursery:

        async def ask(value):
            got[value] = await asked(engine, value)

        for value in range(3):
            nursery.start_soon(ask, value)
        await until(lambda: len(opened.threads) == 3)
        assert not got
        assert engine.model("m").ledger.inflight == 3
        opened.hold.set()
        await until(lambda: len(got) == 3)
        assert got == {0: 0, 1: 2, 2: 4}
        counted = engine.statistics("m")[0]
        assert (counted.inference_count, counted.inference_stats.success.count) == (3, 3)
        assert counted.inference_stats.fail.count == 0
        assert engine.model("m").ledger.inflight == 0


async def test_some_of_a_batch_are_answered_at_once(opened):
    """The others later; None in the list stands for them."""
    methods = """
    def execute(self, requests):
        responses = [doubled(request) if number(request) % 2 else None for request in requests]
        for request, response in zip(requests, responses):
            if response is None:
                later(self.answer, request, request.get_response_sender())
        return responses
    """
    got = {}
    delay = "dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [4] }\n"
    async with opened(methods, delay) as engine, trio.open_nursery() as nursery:

        async def ask(value):
            got[value] = await asked(engine, value)

        for value in range(4):
            nursery.start_soon(ask, value)
        await until(lambda: len(got) == 2)
        assert got == {1: 2, 3: 6}
        opened.hold.set()
        await until(lambda: len(got) == 4)
        assert got == {0: 0, 1: 2, 2: 4, 3: 6}
        counted = engine.statistics("m")[0]
        assert (counted.execution_count, counted.inference_count) == (1, 4)
        assert counted.inference_stats.success.count == 4


async def test_a_request_that_the_model_forgets_fails(opened):
    """Goal: it does not hang, and others go on."""
    methods = """
    def execute(self, requests):
        self.kept = [request.get_response_sender() for request in requests if number(request)]
    def finalize(self):
        self.kept = None
    """
    async with opened(methods) as engine, trio.open_nursery() as nursery:
        faults = []

        async def ask(value):
            with pytest.raises(ModelFailure) as caught:
                await asked(engine, value)
            faults.append(caught.value.message)

        nursery.start_soon(ask, 1)
        await until(lambda: engine.model("m").ledger.deferred)
        with pytest.raises(ModelFailure, match="returned without a response to this request"):
            await asked(engine, 0)
        await until(lambda: faults)
        assert "returned without a response to this request" in faults[0]
        assert engine.model("m").ledger.inflight == 0
        assert engine.statistics("m")[0].inference_stats.fail.count == 2


async def test_who_leaves_meanwhile(opened):
    """The answer is dropped, and the request counts as canceled; so does one whose deadline passes."""
    async with opened(LATER) as engine:
        with trio.move_on_after(0.2):
            await asked(engine, 1)
        with pytest.raises(DeadlineExceeded):
            await asked(engine, 2, timeout=0.2)
        assert engine.model("m").ledger.inflight == 2
        opened.hold.set()
        await until(lambda: engine.model("m").ledger.inflight == 0)
        assert engine.model("m").statistics.failures["CANCELED"] == 2
        assert engine.model("m").statistics.success_count == 0


async def test_unloaded_meanwhile(opened):
    """What is under way is waited for, for the grace; then it is told."""
    async with opened(LATER) as engine, trio.open_nursery() as nursery:
        faults = []

        async def ask():
            with pytest.raises(ShuttingDown) as caught:
                await asked(engine, 1)
            faults.append(caught.value.message)

        nursery.start_soon(ask)
        await until(lambda: engine.model("m").ledger.deferred)
        await engine.model("m").drain(0.1)
        assert faults == ["the model was unloaded before it had answered"]
        opened.hold.set()


async def test_order_is_kept(opened):
    """With preserve_ordering, who was first hears first."""
    methods = """
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            if number(request) == 0:
                later(self.answer, request, sender)
            else:
                sender.send(doubled(request), FINAL)
    """
    got = []
    async with opened(methods, "dynamic_batching { preserve_ordering: true }\n") as engine:
        model = engine.model("m")

        def told(job):
            got.append(job.response.outputs[0].numpy().item())

        def ask(value):
            tensor = Tensor.of("IN", np.array([[value]], np.int32))
            model.submit(InferenceRequest("m", {"IN": tensor}), told)

        ask(0)
        await until(lambda: opened.threads)
        ask(1)
        await until(lambda: model.statistics.execution_count == 2)
        assert got == []
        opened.hold.set()
        await until(lambda: len(got) == 2)
        assert got == [0, 2]


async def test_a_batch_that_raises_after_all(opened):
    """Goal: one end. The sender that is used later is told so."""
    methods = """
    def execute(self, requests):
        if number(requests[0]) == 7:
            try:
                self.sender.send(doubled(requests[0]), FINAL)
            except pb_utils.TritonModelException as error:
                return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests]
        self.sender = requests[0].get_response_sender()
        raise ValueError("bad")
    """
    async with opened(methods) as engine:
        with pytest.raises(ModelFailure, match="bad"):
            await asked(engine, 1)
        with pytest.raises(ModelFailure, match=r"Unable to send response\. Response sender has been closed\."):
            await asked(engine, 7)
