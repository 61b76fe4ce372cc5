"""Decoupled Python models under a real engine: senders on every thread, their rules, and what ends a request."""

from __future__ import annotations

import textwrap

import despina
import numpy as np
import pytest
import trio
from despina.schema.fault import InvalidArgument, ModelFailure

CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [-1] }, { name: "MORE" data_type: TYPE_INT32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
PRELUDE = """
import asyncio, gc, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
def numbers(*values, **more):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(values, np.int32))], **more)
"""
EACH = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            xs = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
"""


@pytest.fixture(params=["none", "process"])
def written(request, tmp_path):
    """Writes a model and opens an engine over it: `async with written(code) as engine`. `each` code runs per request,
    with `sender` and `xs`."""

    def write(code="", *, each=None, **options):
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
        body = EACH + textwrap.indent(textwrap.dedent(each), " " * 12) if each is not None else textwrap.dedent(code)
        (tmp_path / "m" / "1" / "model.py").write_text(PRELUDE + body)
        return despina.open_engine(tmp_path, backend_config={"python": {"isolation": request.param}}, **options)

    return write


async def answers(engine, *values, **options):
    """The first numbers of all answers."""
    with trio.fail_after(10):
        stream = engine.stream("m", {"IN": np.array(values, np.int32)}, **options)
        return [int(result["OUT"][0]) async for result in stream]


async def failure(engine, *values):
    """How many answers came, and the fault that ended the stream."""
    count = 0
    with trio.fail_after(10):
        try:
            async for _ in engine.stream("m", {"IN": np.array(values, np.int32)}):
                count += 1
        except despina.Fault as fault:
            return count, fault
    pytest.fail("the stream ended well")


async def idle(engine):
    """Until nothing is in flight."""
    with trio.fail_after(10):
        while engine.model("m").ledger.inflight:  # noqa: ASYNC110  the model's own threads end it
            await trio.sleep(0.005)


async def test_one_answer_per_element(written):
    """The usual decoupled model: responses, then the final flag alone."""
    async with written(each="for x in xs:\n    sender.send(numbers(x))\nsender.send(flags=FINAL)") as engine:
        assert await answers(engine, 4, 2, 0) == [4, 2, 0]
        assert await answers(engine) == []
        # The last answer is there before its execution has returned and is counted.
        with trio.fail_after(10):
            while (counted := engine.statistics("m")[0]).execution_count < 2:  # noqa: ASYNC110  the model's own thread
                await trio.sleep(0.005)
        assert (counted.inference_stats.success.count, counted.execution_count) == (2, 2)


async def test_a_thread_answers_after_execute_has_returned(written):
    """The instance is free meanwhile, and each request has its answers in order."""
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                threading.Thread(target=self.answer, args=(request.get_response_sender(), request)).start()
        def answer(self, sender, request):
            for x in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy():
                time.sleep(0.005)
                sender.send(numbers(x))
            sender.send(flags=FINAL)
    """
    got = {}
    async with written(code) as engine:

        async def ask(first):
            got[first] = await answers(engine, *range(first, first + 5))

        async with trio.open_nursery() as nursery:
            for first in (0, 10, 20):
                nursery.start_soon(ask, first)
    assert got == {first: list(range(first, first + 5)) for first in (0, 10, 20)}


async def test_a_coroutine_goes_on_in_the_background(written):
    """Several executions of an asynchronous model overlap on one loop; a failing one is told, not forgotten."""
    code = """
    class TritonPythonModel:
        def __init__(self):
            self.met = None
        async def execute(self, requests):
            sender = requests[0].get_response_sender()
            xs = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()
            if xs[0] < 0:
                await asyncio.sleep(0)
                raise ValueError("negative")
            if self.met is None:
                self.met = asyncio.Barrier(2)
            async with self.met:
                sender.send(numbers(*xs), FINAL)
        async def finalize(self):
            await asyncio.sleep(0)
    """
    got = []
    async with written(code) as engine:

        async def ask(value):
            got.extend(await answers(engine, value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 1)
            nursery.start_soon(ask, 2)
        assert sorted(got) == [1, 2]
        count, fault = await failure(engine, -1)
        assert count == 0
        assert fault.message.startswith("Failed to process the request(s) for model 'm_0_0', message: ValueError: neg")


@pytest.mark.parametrize(
    ("each", "count", "text"),
    [
        ("sender.send(numbers(1), 2)", 0, "Unable to send response. Unsupported flag provided."),
        (
            "sender.send(numbers(1)); sender.send()",
            1,
            "Inference Response object must be provided when the response flags is set to zero.",
        ),
        ("sender.send(numbers(1)); sender.send(5)", 1, "send(): expected an InferenceResponse, found <class 'int'>"),
        ("sender.send(numbers(1)); raise ValueError('bad')", 1, "message: ValueError: bad\n\nAt:\n"),
        (
            "return []",
            0,
            "Failed to process the request(s) for model 'm_0_0', message: Python model 'm_0_0' is using the decoupled "
            "mode and the execute function must return None.",
        ),
        ("raise SystemExit(3)", 0, "SystemExit: 3"),
    ],
)
async def test_misuse_is_told(written, each, count, text):
    """The request ends with the error, after the answers that were sent before it; the next one is served."""
    async with written(each=f"if xs[0]:\n    {each}\nsender.send(flags=FINAL)") as engine:
        came, fault = await failure(engine, 1)
        assert came == count
        assert isinstance(fault, ModelFailure)
        assert text in fault.message
        assert await answers(engine, 0) == []


async def test_an_error_comes_after_what_waits_for_its_caller(written):
    """Also answers that their caller has no room for yet when `execute` raises."""
    async with written(
        each="for x in xs:\n    sender.send(numbers(x))\nraise ValueError('bad')", stream_responses_max=2
    ) as engine:
        came = []

        async def take_slowly():
            async for result in engine.stream("m", {"IN": np.arange(8, dtype=np.int32)}):
                came.append(int(result["OUT"][0]))
                await trio.sleep(0.01)

        with trio.fail_after(10), pytest.raises(ModelFailure, match="ValueError: bad"):
            await take_slowly()
        assert came == list(range(8))
        await idle(engine)
        (counted,) = engine.statistics("m")
        assert (counted.inference_stats.success.count, counted.inference_stats.fail.count) == (0, 1)


async def test_a_sender_is_closed_by_the_final_flag(written):
    """Sending after it raises in the model; the client has its proper end."""
    each = """
    sender.send(numbers(1), FINAL)
    try:
        sender.send(numbers(2))
    except pb_utils.TritonModelException as error:
        assert str(error) == "Unable to send response. Response sender has been closed."
        type(self).said = True
    """
    async with written(each=each + "assert self.said\n") as engine:
        assert await answers(engine, 1) == [1]


async def test_an_error_response_keeps_its_code(written):
    """TritonError as one of the answers reaches the caller with its own class."""
    each = (
        "sender.send(numbers(7))\n"
        "error = pb_utils.TritonError('odd', pb_utils.TritonError.INVALID_ARG)\n"
        "sender.send(pb_utils.InferenceResponse(error=error), FINAL)"
    )
    async with written(each=each) as engine:
        count, fault = await failure(engine, 1)
        assert (count, type(fault), fault.message) == (1, InvalidArgument, "odd")


async def test_a_sender_that_is_dropped_ends_the_request(written, caplog):
    """Without the final flag the client gets an error, not silence, and the log says why."""
    async with written(each="sender.send(numbers(1))") as engine:
        count, fault = await failure(engine, 1)
        assert count == 1
        assert "dropped without the final flag" in fault.message
        assert "dropped without the final flag" in caplog.text
        await idle(engine)
        assert engine.statistics("m")[0].inference_stats.fail.count == 1


async def test_requested_outputs_only(written):
    """Outputs that were not asked for are left out, as for ordinary models."""
    each = (
        "more = pb_utils.Tensor('MORE', xs)\n"
        "sender.send(pb_utils.InferenceResponse([pb_utils.Tensor('OUT', xs), more]), FINAL)"
    )
    async with written(each=each) as engine:
        got = [list(result) async for result in engine.stream("m", {"IN": np.ones(1, np.int32)}, outputs=["OUT"])]
        assert got == [["OUT"]]


async def test_an_array_may_be_used_again_after_it_was_sent(written):
    """What was sent is safe from the model's next step, small and large."""
    each = """
    array = np.zeros(xs[0], np.int32)
    for step in range(5):
        array += 1
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
    sender.send(flags=FINAL)
    """
    async with written(each=each) as engine:
        assert await answers(engine, 10) == [1, 2, 3, 4, 5]
        assert await answers(engine, 100_000) == [1, 2, 3, 4, 5]


async def test_a_model_sees_that_its_caller_has_left(written):
    """is_cancelled turns true, send no longer waits, and the request is over once the model has ended it."""
    each = """
    while not sender.is_cancelled():
        sender.send(numbers(1))
    assert request.is_cancelled()
    sender.send(numbers(1))
    sender.send(flags=FINAL)
    """
    async with written(each=each, stream_responses_max=4) as engine:
        stream = engine.stream("m", {"IN": np.ones(1, np.int32)})
        for _ in range(10):
            await anext(stream)
        await stream.aclose()
        await idle(engine)


async def test_an_engine_that_ends_does_not_wait_for_a_model_for_ever(written):
    """A background coroutine that never ends is cancelled, its caller told; the engine closes in bounded time."""
    code = """
    class TritonPythonModel:
        async def execute(self, requests):
            self.kept = requests
            requests[0].get_response_sender().send(numbers(1))
            await asyncio.sleep(1000)
    """
    got = []

    async def ask(engine):
        got.append(await failure(engine, 1))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            with pytest.RaisesGroup(Exception, allow_unwrapped=True, flatten_subgroups=True):
                async with written(code, exit_timeout_secs=0.5) as engine:
                    nursery.start_soon(ask, engine)
                    while not engine.model("m").ledger.streams:  # noqa: ASYNC110
                        await trio.sleep(0.01)
    (count, fault) = got[0]
    assert count <= 1
    assert "unloaded" in fault.message
