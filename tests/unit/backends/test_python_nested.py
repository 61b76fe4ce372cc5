"""Requests that Python models make themselves, under a real engine: answers, what ends them early, and where."""

from __future__ import annotations

import json
import textwrap
import threading
from contextlib import asynccontextmanager

import despina
import numpy as np
import pytest
import trio
from despina.engine import nesting
from despina.schema.fault import Cancelled, DeadlineExceeded

from tests import in_process

CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [-1] }, { name: "SAID" data_type: TYPE_STRING dims: [-1] }]
"""
DECOUPLED = "model_transaction_policy { decoupled: true }\n"
PRELUDE = """
import asyncio, gc, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import triton_python_backend_utils as pb_utils
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
def numbers(*values):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(values, np.int32))])
def said(*lines):
    array = np.array([str(line).encode() for line in lines], np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor("SAID", array)])
def call(model, *values, **more):
    tensor = pb_utils.Tensor("IN", np.array(values, np.int32))
    more.setdefault("requested_output_names", ["OUT"])
    return pb_utils.InferenceRequest(model_name=model, inputs=[tensor], **more)
def shown(response):
    if response.has_error():
        return f"{response.error().code().name}: {response.error().message()}"
    return [int(x) for tensor in response.output_tensors() for x in tensor.as_numpy()]
"""
EACH = """
class TritonPythonModel:
    def execute(self, requests):
        return [self.one(request) for request in requests]
    def one(self, request):
        xs = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
"""
DOUBLE = "return numbers(*(2 * xs))"
HELD = "HOLD.wait(10)\nreturn numbers(*(2 * xs))"


class Models:
    """A repository that tests write, and what its models meet tests by."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, name, each=None, *, code="", count=1, more="", group="", decoupled=False):
        """`each` runs for each request, with `request` and `xs`; or `code` is the whole model."""
        (self.folder / name / "1").mkdir(parents=True)
        group = group or f"instance_group [{{ kind: KIND_CPU count: {count} }}]\n"
        config = CONFIG + (DECOUPLED if decoupled else "") + group
        (self.folder / name / "config.pbtxt").write_text(config + more)
        body = EACH + textwrap.indent(textwrap.dedent(each), " " * 8) if each is not None else textwrap.dedent(code)
        meeting = "import sys\nHOLD, REACHED = sys.modules['nested_meeting'].events\n"
        (self.folder / name / "1" / "model.py").write_text(PRELUDE + meeting + body)

    @asynccontextmanager
    async def opened(self, **options):
        async with despina.open_engine(self.folder, backend_config=in_process.SETTING, **options) as engine:
            yield engine


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Models() with two events, `hold` and `reached`, that its models have as HOLD and REACHED."""
    import sys
    from types import SimpleNamespace

    found = Models(tmp_path)
    found.hold, found.reached = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "nested_meeting", SimpleNamespace(events=(found.hold, found.reached)))
    yield found
    found.hold.set()


async def asked(engine, *values, model="outer", **options):
    """The lines that a model says."""
    with trio.fail_after(15):
        result = await engine.infer(model, {"IN": np.array(values, np.int32)}, **options)
    return [line.decode() for line in result["SAID"]] if "SAID" in result else result["OUT"].tolist()


async def until(condition):
    """Waits for what other threads bring about."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  other threads
            await trio.sleep(0.005)


async def test_a_model_asks_another(models):
    """The answer, its parameters, and the callee's statistics."""
    models.write("double", DOUBLE)
    models.write("outer", 'return said(shown(call("double", *xs).exec()))')
    async with models.opened() as engine:
        assert await asked(engine, 1, 2) == ["[2, 4]"]
        assert engine.statistics("double")[0].inference_stats.success.count == 1
        assert not engine.nesting.calls


async def test_large_tensors_are_not_copied_between_models(models):
    """The callee's array is the caller's, to write to; what the callee keeps of it is not."""
    inner = """
    if len(xs) == 1:
        return said(self.address, self.kept.as_numpy()[0])
    array = np.arange(100_000, dtype=np.int32)
    self.address = array.__array_interface__["data"][0]
    self.kept = pb_utils.Tensor("OUT", array) if len(xs) == 3 else None
    if self.kept is None:
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)])
    del array
    return pb_utils.InferenceResponse([self.kept])
    """
    outer = """
    array = call("inner", *xs).exec().output_tensors()[0].as_numpy()
    address = array.__array_interface__["data"][0]
    array[0] = 77
    answer = call("inner", 1, requested_output_names=["SAID"]).exec() if len(xs) == 3 else None
    if answer is None:
        return said(address)
    return said(address, *answer.output_tensors()[0].as_numpy().tolist())
    """
    models.write("inner", inner)
    models.write("outer", outer)
    models.write("tell", 'return said(call("inner", 1, requested_output_names=["SAID"]).exec().error().message())')
    async with models.opened() as engine:
        address, told, kept = await asked(engine, 1, 2, 3)
        assert address != told, "the callee has kept it"
        assert kept == "b'0'"


async def test_every_model_of_a_chain_is_asked(models):
    """Depth is bounded: a model with enough instances that calls itself without end is told so."""
    models.write("outer", 'return said(shown(call("outer", *xs).exec())[:60])', count=nesting.DEPTH_MAX + 2)
    models.write("chain", 'return numbers(xs[0]) if xs[0] == 0 else call("chain", xs[0] - 1).exec()', count=8)
    async with models.opened() as engine:
        result = await asked(engine, 7, model="chain")
        assert result == [0]


async def test_too_deep(models, monkeypatch):
    """The deepest is refused by name, and all others answer with what it said."""
    monkeypatch.setattr(nesting, "DEPTH_MAX", 3)
    models.write(
        "outer",
        """
        answer = call("outer", *xs, requested_output_names=["SAID"]).exec()
        return said(answer.error().message()) if answer.has_error() else answer
        """,
        count=6,
    )
    async with models.opened() as engine:
        assert "nested more than 3 deep: does 'outer' call itself" in (await asked(engine, 1))[0]


async def test_threads_of_a_decoupled_model_do_not_nest_without_end_either(models, monkeypatch):
    """Where nobody knows what a call is made for, the deepest call under way to its model counts."""
    monkeypatch.setattr(nesting, "DEPTH_MAX", 4)
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                threading.Thread(target=self.go, args=(request.get_response_sender(),)).start()
        def go(self, sender):
            for answer in call("outer", 1, requested_output_names=["SAID"]).exec(decoupled=True):
                if answer.has_error():
                    sender.send(said(answer.error().message()))
                elif answer.output_tensors():
                    sender.send(answer)
            sender.send(flags=FINAL)
    """
    models.write("outer", code=code, decoupled=True)
    async with models.opened() as engine:
        with trio.fail_after(15):
            found = [result["SAID"][0] async for result in engine.stream("outer", {"IN": np.array([1], np.int32)})]
        assert [b"more than 4 deep" in text for text in found] == [True]


# --- Calls that wait for each other


async def test_a_model_with_one_instance_that_calls_itself_is_told_at_once(models):
    """Goal: no hang. Its only instance waits for the call, which waits for its only instance."""
    models.write("outer", 'return said(shown(call("outer", *xs).exec()))')
    async with models.opened() as engine:
        began = trio.current_time()
        (line,) = await asked(engine, 1)
        assert trio.current_time() - began < nesting.LOOK_S / 2
        assert line.startswith("UNAVAILABLE: the request to model 'outer' would wait for ever")
        assert await asked(engine, 1) == [line], "it goes on serving"


async def test_two_models_that_call_each_other(models):
    """Around a corner; two requests at a time, too, which close the circle only together."""
    models.write("outer", 'REACHED.set()\nreturn said(shown(call("other", *xs).exec()))')
    models.write("other", 'return numbers(len(shown(call("outer", *xs).exec())))')
    async with models.opened() as engine:
        got = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: collected(got, asked(engine, 1)))
        assert len(got) == 3


async def collected(into, awaitable):
    """Keeps a result."""
    into.append(await awaitable)


async def test_a_free_instance_is_no_reason_to_refuse(models):
    """Two instances: one calls, the other answers. Under company some calls find both busy with the like."""
    models.write("outer", 'return numbers(5) if xs[0] else said(shown(call("outer", 1).exec()))', count=2)
    async with models.opened() as engine:
        assert await asked(engine, 0) == ["[5]"]
        got = []
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(lambda: collected(got, asked(engine, 0)))
        assert len(got) == 8
        assert {line[0][:11] for line in got} <= {"[5]", "UNAVAILABLE"[:11]}


@pytest.mark.parametrize(
    "waiting",
    [
        "shown(await call('outer', 1).async_exec())",
        "ThreadPoolExecutor(1).submit(lambda: shown(call('outer', 1).exec())).result()",
    ],
    ids=["awaited", "on a thread"],
)
async def test_what_waits_for_itself_by_other_means_is_refused_after_a_while(models, waiting):
    """Goal: no hang where it is not the executing thread that stands still in exec."""
    code = f"""
    class TritonPythonModel:
        async def execute(self, requests):
            return [said({waiting}) for _ in requests]
    """
    models.write("outer", code=code)
    async with models.opened() as engine:
        (line,) = await asked(engine, 1)
        assert line.startswith("UNAVAILABLE: the request to model 'outer' would wait for ever")


async def test_work_that_waits_for_others_is_not_refused(models):
    """Goal: no false alarm. The callee is busy for others for longer than some looks."""
    models.write("slow", "time.sleep(2.5 * (xs[0] == 9))\nreturn numbers(*xs)")
    models.write("outer", 'REACHED.set()\nreturn said(shown(call("slow", *xs).exec()))')
    async with models.opened() as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.infer, "slow", {"IN": np.array([9], np.int32)})
        await trio.sleep(0.1)
        assert await asked(engine, 3) == ["[3]"]


async def test_a_stream_that_nobody_reads_does_not_hold_another_up(models):
    """One instance sends more than it has credit for; its reader waits for the same instance in another call."""
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                sender = request.get_response_sender()
                for x in range(200):
                    sender.send(numbers(x))
                sender.send(flags=FINAL)
    """
    models.write("many", code=code, decoupled=True)
    outer = """
    first = call("many", 1).exec(decoupled=True)
    one = next(first)
    second = next(call("many", 1).exec(decoupled=True))
    return said(shown(one), shown(second)[:11] if second.has_error() else "ok", sum(1 for _ in first))
    """
    models.write("outer", outer)
    async with models.opened(stream_responses_max=4) as engine:
        assert await asked(engine, 1) == ["[0]", "UNAVAILABLE", "200"]


SEQUENCES = "sequence_batching { max_sequence_idle_microseconds: 60000000 %s }\n"


@pytest.mark.parametrize("strategy", ["direct { }", "oldest { max_candidate_sequences: 2 }"])
async def test_a_sequence_that_asks_itself(models, strategy):
    """Goal: no hang. Its next request waits for its own instance, though the other is free; another sequence is
    served by that one."""
    models.write(
        "outer",
        """
        if xs[0] == 0:
            return said("end")
        id = 7 if xs[0] == 1 else 8
        answer = call("outer", 0, requested_output_names=["SAID"], correlation_id=id, flags=1).exec()
        return said(answer.error().message()) if answer.has_error() else answer
        """,
        count=2,
        more=SEQUENCES % strategy,
    )
    async with models.opened() as engine:
        (line,) = await asked(engine, 1, sequence_id=7, sequence_start=True)
        assert line.startswith("the request to model 'outer' would wait for ever")
        assert await asked(engine, 2, sequence_id=9, sequence_start=True) == ["end"]


async def test_a_model_that_keeps_order_and_asks_itself(models):
    """Goal: no hang. The inner answer waits for the outer one, which came first."""
    models.write(
        "outer",
        """
        if xs[0] == 0:
            return said("end")
        answer = call("outer", 0, requested_output_names=["SAID"]).exec()
        return said(answer.error().message()) if answer.has_error() else answer
        """,
        count=2,
        more="dynamic_batching { preserve_ordering: true }\n",
    )
    async with models.opened() as engine:
        (line,) = await asked(engine, 1)
        assert line.startswith("the request to model 'outer' would wait for ever")


# --- What ends calls early


async def test_the_callers_leaving_cancels_a_call_that_waits(models):
    """The nested request leaves its queue, its model is told, and the outer one comes to its end."""
    models.write("inner", "REACHED.set()\n" + HELD)
    models.write("outer", 'self.line = shown(call("inner", *xs).exec())\nreturn said(self.line)')
    async with models.opened() as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.infer, "inner", {"IN": np.array([1], np.int32)})
        await until(models.reached.is_set)
        with trio.move_on_after(0.2):
            await asked(engine, 2)
        await until(lambda: engine.model("outer").ledger.inflight == 0)
        assert engine.model("inner").pending == 0, "the nested request is out of the queue"
        models.hold.set()


async def test_the_callers_leaving_ends_a_call_that_executes(models):
    """The outer model hears at once; the inner one's result is dropped when it comes."""
    models.write("inner", "REACHED.set()\n" + HELD)
    models.write("outer", "line = shown(call('inner', *xs).exec())\nself.kept = line\nreturn said(line)")
    async with models.opened() as engine:
        with trio.move_on_after(0.2):
            await asked(engine, 2)
        assert models.reached.is_set()
        await until(lambda: engine.model("outer").ledger.inflight == 0)
        assert engine.model("inner").ledger.inflight == 1
        models.hold.set()
        await until(lambda: engine.model("inner").ledger.inflight == 0)


async def test_a_deadline_of_the_callers_ends_a_call(models):
    """As leaving does."""
    models.write("inner", HELD)
    models.write("outer", 'return said(shown(call("inner", *xs).exec()))')
    async with models.opened() as engine:
        with pytest.raises(DeadlineExceeded):
            await asked(engine, 2, timeout=0.2)
        await until(lambda: engine.model("outer").ledger.inflight == 0)
        models.hold.set()


async def test_a_batch_goes_on_while_one_of_its_callers_waits(models):
    """A call made for a batch is cancelled once all of its callers have left."""
    models.write("inner", "REACHED.set()\n" + HELD)
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            line = str(shown(call("inner", len(requests)).exec())).encode()
            array = np.array([[line]], np.object_)
            return [pb_utils.InferenceResponse([pb_utils.Tensor("SAID", array)]) for _ in requests]
    """
    models.write("outer", code=code)
    config = (models.folder / "outer" / "config.pbtxt").read_text()
    batched = config.replace("max_batch_size: 0", "max_batch_size: 2")
    batched += "dynamic_batching { max_queue_delay_microseconds: 300000 }\n"
    (models.folder / "outer" / "config.pbtxt").write_text(batched)
    async with models.opened() as engine, trio.open_nursery() as nursery:
        answered = []

        async def stays():
            result = await engine.infer("outer", {"IN": np.array([[1]], np.int32)})
            answered.append(result["SAID"].ravel().tolist())

        nursery.start_soon(stays)
        with trio.move_on_after(0.6):
            await engine.infer("outer", {"IN": np.array([[1]], np.int32)})
        assert models.reached.is_set()
        models.hold.set()
        await until(lambda: answered)
        assert answered == [[b"[4]"]]


async def test_a_stream_is_cancelled_by_the_iterator_and_by_dropping_it(models):
    """The decoupled callee sees it by is_cancelled and ends."""
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                sender = request.get_response_sender()
                count = 0
                while not sender.is_cancelled() and count < 100_000:
                    sender.send(numbers(count))
                    count += 1
                sender.send(flags=FINAL)
    """
    models.write("endless", code=code, decoupled=True)
    outer = """
    answers = call("endless", 1).exec(decoupled=True)
    first = shown(next(answers))
    if xs[0]:
        answers.cancel()
        return said(first, [shown(answer) for answer in answers][-1])
    del answers
    gc.collect()
    return said(first)
    """
    models.write("outer", outer)
    async with models.opened() as engine:
        assert await asked(engine, 0) == ["[0]"]
        await until(lambda: engine.model("endless").ledger.inflight == 0)
        first, last = await asked(engine, 1)
        assert first == "[0]"
        assert last == "CANCELLED: the request was cancelled by the model that made it"
        await until(lambda: engine.model("endless").ledger.inflight == 0)


async def test_cancelling_what_is_awaited_cancels_the_call(models):
    """asyncio.wait_for in a model: the nested request is given up."""
    models.write("inner", "REACHED.set()\n" + HELD)
    code = """
    class TritonPythonModel:
        async def execute(self, requests):
            try:
                await asyncio.wait_for(call("inner", 1).async_exec(), 0.1)
            except asyncio.TimeoutError:
                return [said("late") for _ in requests]
    """
    models.write("outer", code=code)
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["late"]
        await until(lambda: not engine.nesting.calls)
        models.hold.set()


async def test_the_callee_is_unloaded_while_it_is_asked(models):
    """What it has begun it finishes; who asks later hears that it is not there."""
    models.write("inner", "REACHED.set()\n" + HELD)
    models.write("outer", 'return said(shown(call("inner", *xs).exec()))')
    async with models.opened(model_control_mode="explicit", load_model="*") as engine, trio.open_nursery() as nursery:
        got = []
        nursery.start_soon(lambda: collected(got, asked(engine, 1)))
        await until(models.reached.is_set)
        await engine.unload("inner")
        models.hold.set()
        await until(lambda: got)
        assert got == [["[2]"]]
        (line,) = await asked(engine, 1)
        assert line.endswith("Failed for execute the inference request. Model 'inner' is not ready.")


async def test_the_caller_is_unloaded_while_it_asks(models):
    """When its grace is over, its call ends and its thread comes back."""
    models.write("inner", "REACHED.set()\n" + HELD)
    models.write("outer", 'return said(shown(call("inner", *xs).exec()))')
    async with models.opened(exit_timeout_secs=5) as engine, trio.open_nursery() as nursery:
        got = []
        nursery.start_soon(lambda: collected(got, asked(engine, 1)))
        await until(models.reached.is_set)
        await engine.model("outer").drain(0.1)
        await until(lambda: got)
        assert got == [["UNAVAILABLE: the model that made the request was unloaded"]]
        models.hold.set()


async def test_the_engine_stops_while_a_model_waits_in_a_call(models):
    """Nobody is left behind: the thread comes back."""
    models.write("inner", "REACHED.set()\n" + HELD)
    models.write("outer", 'return said(shown(call("inner", *xs).exec()))')
    got = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            with pytest.raises(despina.Fault, match="Exit timeout expired"):  # noqa: PT012  what leaving it raises
                async with models.opened(exit_timeout_secs=0.3) as engine:
                    nursery.start_soon(lambda: collected(got, asked(engine, 1)))
                    await until(models.reached.is_set)
    assert got[0][0].startswith("UNAVAILABLE: ")
    await until(lambda: not any(thread.name.startswith("despina/outer") for thread in threading.enumerate()))


async def test_the_callee_dies(models, monkeypatch):
    """What its executor dies of is the answer's error."""
    from despina.backends.python.instance import PythonInstance
    from despina.schema.fault import ExecutorDied

    execute = PythonInstance.execute

    def dying(self, batch):
        if self.name.startswith("inner"):
            raise ExecutorDied("it is gone")
        execute(self, batch)

    models.write("inner", DOUBLE)
    models.write("outer", 'return said(shown(call("inner", *xs).exec()))')
    monkeypatch.setattr(PythonInstance, "execute", dying)
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["INTERNAL: it is gone"]


# --- Where models ask from


async def test_asynchronous_models_ask_side_by_side(models):
    """Several calls at a time of one execution."""
    models.write("double", DOUBLE, count=3)
    code = """
    class TritonPythonModel:
        async def execute(self, requests):
            answers = await asyncio.gather(*[call("double", value).async_exec() for value in range(4)])
            return [said(*map(shown, answers)) for _ in requests]
    """
    models.write("outer", code=code)
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["[0]", "[2]", "[4]", "[6]"]


async def test_coroutines_of_decoupled_models_ask_after_execute(models):
    """They go on in the background, know what they are made for, and are cancelled with it."""
    models.write("inner", "REACHED.set()\n" + HELD)
    code = """
    class TritonPythonModel:
        async def execute(self, requests):
            for request in requests:
                answer = await call("inner", 1).async_exec()
                request.get_response_sender().send(said(shown(answer)), FINAL)
    """
    models.write("outer", code=code, decoupled=True)
    async with models.opened() as engine:
        with trio.move_on_after(0.3):
            async for _ in engine.stream("outer", {"IN": np.array([1], np.int32)}):
                pass
        assert models.reached.is_set()
        await until(lambda: not engine.nesting.calls)
        await until(lambda: engine.model("outer").ledger.inflight == 0)
        models.hold.set()


async def test_other_threads_of_a_model_ask(models):
    """A pool of its own."""
    models.write("double", DOUBLE)
    models.write(
        "outer",
        """
        with ThreadPoolExecutor(3) as pool:
            return said(*pool.map(lambda x: shown(call("double", x).exec()), range(3)))
        """,
    )
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["[0]", "[2]", "[4]"]


async def test_only_while_it_executes(models):
    """initialize and finalize may not ask; the reference server's words."""
    code = """
    def attempt():
        try:
            return shown(call("double", 1).exec())
        except pb_utils.TritonModelException as error:
            return str(error)
    class TritonPythonModel:
        def initialize(self, args):
            self.first = attempt()
        def execute(self, requests):
            return [said(self.first) for _ in requests]
    """
    models.write("double", DOUBLE)
    models.write("outer", code=code)
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["BLS is only supported during the 'execute' function."]


async def test_not_on_the_engines_own_thread(models):
    """A model that executes there would hold everybody up: refused by name."""
    models.write("double", DOUBLE)
    models.write(
        "outer",
        """
        try:
            return said(shown(call("double", 1).exec()))
        except pb_utils.TritonModelException as error:
            return said(error)
        """,
        more='parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }\n',
    )
    async with models.opened() as engine:
        lines = [(await asked(engine, 1))[0] for _ in range(3)]
        assert any("take DESPINA_EXECUTOR out of its configuration" in line for line in lines)


async def test_what_was_received_is_not_sent(models):
    """Its model is the one that received it."""
    models.write(
        "outer", "try:\n    request.exec()\nexcept pb_utils.TritonModelException as error:\n    return said(error)"
    )
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["a request that a model received cannot be sent: make one of its tensors"]


def test_faults_keep_their_codes():
    """Each fault has the code by which models and clients know it."""
    from despina.backends.python.error import TritonError

    for fault, code in ((Cancelled("x"), "CANCELLED"), (DeadlineExceeded("x"), "INTERNAL")):
        assert TritonError.of(fault).code().name == code


# --- Ensembles and traces

AROUND = """
platform: "ensemble"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "SAID" data_type: TYPE_STRING dims: [-1] }]
ensemble_scheduling { step [{
  model_name: "outer" model_version: -1
  input_map { key: "IN" value: "IN" }
  output_map { key: "SAID" value: "SAID" }
}] }
"""


async def test_a_model_asks_an_ensemble(models):
    """And the ensemble the model that asked, which has one instance only: the circle is found through it."""
    models.write(
        "outer",
        """
        if xs[0] == 0:
            return said("end")
        answer = call("around", xs[0] - 1, requested_output_names=["SAID"]).exec()
        return said(answer.error().message()) if answer.has_error() else answer
        """,
        count=2,
    )
    (models.folder / "around" / "1").mkdir(parents=True)
    (models.folder / "around" / "config.pbtxt").write_text(AROUND)
    async with models.opened() as engine:
        assert await asked(engine, 1) == ["end"]
        (line,) = await asked(engine, 2)
        assert line.startswith("the request to model 'around' would wait for ever")
        assert await asked(engine, 1, model="around") == ["end"], "an ensemble's step asks the ensemble"
        (line,) = await asked(engine, 7, model="around")
        assert line.startswith("the request to model 'around' would wait for ever")


MANY_THEN_OUTER = """
platform: "ensemble"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "SAID" data_type: TYPE_STRING dims: [-1] }]
ensemble_scheduling { step [
  { model_name: "many" model_version: -1 input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "x" } },
  { model_name: "outer" model_version: -1 input_map { key: "IN" value: "x" } output_map { key: "SAID" value: "SAID" } }
] }
"""


async def test_a_step_asks_the_instance_that_waits_for_it(models):
    """A decoupled step waits for room until the step after it has answered, which asks it by a nested call: the whole
    is given up after seconds, by name; few answers, for which there is room, are served."""
    code = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                sender = request.get_response_sender()
                for x in range(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]):
                    sender.send(numbers(1))
                sender.send(flags=FINAL)
    """
    models.write("many", code=code, decoupled=True)
    models.write("outer", 'return said(*(shown(x) for x in call("many", *xs).exec(decoupled=True)))')
    (models.folder / "both" / "1").mkdir(parents=True)
    (models.folder / "both" / "config.pbtxt").write_text(MANY_THEN_OUTER)

    async def answers(engine, count):
        with trio.fail_after(15):
            return [answer async for answer in engine.stream("both", {"IN": np.array([count], np.int32)})]

    async with models.opened(stream_responses_max=4) as engine:
        assert len(await answers(engine, 3)) == 3
        with pytest.raises(despina.Unavailable, match="step of model 'outer' has not answered within"):
            await answers(engine, 100)
        assert len(await answers(engine, 3)) == 3


async def test_calls_are_children_in_the_trace(models, tmp_path):
    """Those that were given the request's trace, and of them those that were executed or refused."""
    models.write("double", DOUBLE)
    models.write(
        "outer",
        """
        call("double", 1, trace=request.trace()).exec()
        call("double", 2).exec()
        return said(shown(call("double", 3, trace=request.trace()).exec()))
        """,
    )
    file = tmp_path / "trace.json"
    settings = despina.TraceSettings(level=["TIMESTAMPS"], rate=1, file=str(file))
    async with models.opened(trace=settings) as engine:
        assert await asked(engine, 1) == ["[6]"]
    notes = json.loads(file.read_text())
    about = {note["id"]: note for note in notes if "model_name" in note}
    assert [(note["model_name"], note.get("parent_id", 0) > 0) for _, note in sorted(about.items())] == [
        ("outer", False),
        ("double", True),
        ("double", True),
    ]
    assert {stamp["name"] for note in notes if note["id"] == 2 for stamp in note.get("timestamps", ())} >= {
        "REQUEST_START",
        "COMPUTE_START",
        "REQUEST_END",
    }


# --- Resources, and the end of the engine

ONE = 'instance_group [{{ kind: KIND_CPU count: {} rate_limiter {{ resources [{{ name: "R" count: 1 }}] }} }}]\n'


async def test_a_callee_that_waits_for_what_its_caller_holds(models):
    """Goal: no hang. Both need the only R; a third model that holds it for others is no reason to refuse."""
    models.write("double", DOUBLE, group=ONE.format(1))
    models.write("outer", 'return said(shown(call("double", *xs).exec()))', group=ONE.format(1))
    models.write("free", 'return said(shown(call("double", *xs).exec()))')
    models.write("slow", "time.sleep(2.5)\nreturn numbers(1)", group=ONE.format(1))
    async with models.opened(rate_limit="execution_count") as engine, trio.open_nursery() as nursery:
        (line,) = await asked(engine, 1)
        assert line.startswith("UNAVAILABLE: the request to model 'double' would wait for ever")
        assert await asked(engine, 1, model="free") == ["[2]"]
        nursery.start_soon(engine.infer, "slow", {"IN": np.array([9], np.int32)})
        await trio.sleep(0.1)
        assert await asked(engine, 2, model="free") == ["[4]"]


async def test_what_is_in_flight_goes_on_asking_while_the_engine_stops(models):
    """Goal: a clean stop. The model asks another one after the stop has begun, and is answered."""
    models.write("double", DOUBLE)
    models.write("outer", 'REACHED.set()\nHOLD.wait(10)\nreturn said(shown(call("double", *xs).exec()))')
    got = []
    async with trio.open_nursery() as nursery, models.opened() as engine:
        nursery.start_soon(lambda: collected(got, asked(engine, 3)))
        await until(models.reached.is_set)
        nursery.start_soon(engine.stop)
        await until(lambda: engine.nesting.stops)
        await trio.sleep(0.1)
        with pytest.raises(despina.Fault):
            await engine.infer("double", {"IN": np.array([9], np.int32)})
        models.hold.set()
    assert got == [["[6]"]]


LOADS = """
class TritonPythonModel:
    def initialize(self, args):
        self.line = "loaded"
        try:
            pb_utils.load_model({!r})
        except pb_utils.TritonModelException as error:
            self.line = str(error)
    def execute(self, requests):
        if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0]:
            try:
                pb_utils.load_model("outer")
            except pb_utils.TritonModelException as error:
                return [said(error) for _ in requests]
        return [said(self.line) for _ in requests]
"""


async def test_models_load_others_while_they_are_opened(models):
    """And not in a circle, which would wait for ever; nor itself, for it may be waited for."""
    models.write("outer", code=LOADS.format("first"))
    models.write("first", code=LOADS.format("second"))
    models.write("second", code=LOADS.format("outer"))
    models.write("narcissus", code=LOADS.format("narcissus"))
    async with models.opened(model_control_mode="explicit") as engine:
        with trio.fail_after(15):
            await engine.load("outer")
            await engine.load("narcissus")
        prefix = (
            "Failed to load model: Failed to process the request for model '{}_0_0', message: model '{}' cannot wait"
        )
        assert await asked(engine, 0) == ["loaded"]
        assert await asked(engine, 0, model="first") == ["loaded"]
        for name in ("second", "narcissus"):
            (line,) = await asked(engine, 0, model=name)
            assert line.startswith(prefix.format(name, name))
        (line,) = await asked(engine, 1)
        assert line.startswith(prefix.format("outer", "outer"))


KEPT = "response_cache { enable: true }\n"
LOCAL = {"cache_config": {"local": {"size": "100000"}}}


async def test_a_model_asks_one_whose_answers_are_kept(models):
    """Goal: the second call is answered from the cache, before it is even queued."""
    models.write("outer", "return said(*(shown(call('inner', 3).exec()) for _ in range(2)))")
    models.write("inner", DOUBLE, more=KEPT)
    async with models.opened(**LOCAL) as engine:
        assert await asked(engine, 1) == ["[6]", "[6]"]
        (inner,) = engine.statistics("inner")
        assert (inner.execution_count, inner.inference_stats.cache_hit.count) == (1, 1)


@pytest.mark.parametrize("joins", [False, True])
async def test_a_call_that_joins_what_waits_for_it_is_refused(models, joins):
    """Goal: a model that asks itself what it is asked does not wait for its own answer, joined or queued."""
    models.write("outer", "return said(shown(call('outer', *xs, requested_output_names=['SAID']).exec()))", more=KEPT)
    async with models.opened(**LOCAL, cache_joins=joins) as engine:
        with trio.fail_after(20):
            (text,) = await asked(engine, 1, outputs=["SAID"])
        assert text.startswith("UNAVAILABLE")


async def test_a_model_asks_one_that_loads_on_request(models):
    """Goal: the call waits for the load, and hears what it met; whether a model is ready is told truly."""
    models.write("double", DOUBLE)
    models.write("broken", code="raise RuntimeError('it is broken')")
    models.write(
        "outer",
        """
        ready = pb_utils.is_model_ready("double")
        return said(ready, *(shown(call(model, *xs).exec()) for model in ("double", "broken", "nobody")))
        """,
    )
    async with models.opened(model_control_mode="explicit", load_on_request=True) as engine:
        ready, answer, broken, nobody = await asked(engine, 1, 2)
        assert (ready, answer) == ("False", "[2, 4]")
        assert "Model broken - Error when running inference: load failed for model 'broken'" in broken
        assert "Model nobody - Error when running inference" in nobody
        assert not engine.nesting.calls
