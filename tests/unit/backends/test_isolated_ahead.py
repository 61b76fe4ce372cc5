"""Requests that were handed to a model's process before their turn: each test has one executed while others wait."""

from __future__ import annotations

import contextlib
import logging
import time

import despina
import numpy as np
import pytest
import trio
from despina.backends.python.isolated import line
from despina.engine.port.concerns import concern_of
from despina.engine.port.settings import Restart
from despina.schema.fault import DeadlineExceeded, ExecutorDied, QueueTimeout
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor

CONFIG = """
backend: "python"
max_batch_size: 1
input [{ name: "IN" data_type: TYPE_STRING dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODEL = """
import os, signal, time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        code = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0].decode()
        with open(FOLDER / "begun", "a") as file:
            file.write(request.request_id() + "\\n")

        def wait(name):
            while not (FOLDER / name).exists():
                time.sleep(0.001)

        exec(code, {"wait": wait, **globals()})
        answer = np.array([[str(os.getpid()).encode()]], object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", answer)])]
"""
PATIENCE_S = 60
SOON = Restart(backoff_min_s=0.01, jitter=0)


class Story:
    """`first` is executed until `let("first")`, then `now` until `let("now")`, while what was asked with them waits."""

    def __init__(self, engine, folder, nursery):
        self.engine, self.folder, self.nursery = engine, folder, nursery
        self.answers = {}
        self.scopes = {}
        self.version = engine.model("m")
        self.instance = self.version.instances._members[0].instance

    def let(self, name):
        (self.folder / name).touch()

    @property
    def begun(self):
        path = self.folder / "begun"
        return path.read_text().split() if path.exists() else []

    @property
    def ahead(self):
        return [job.request.id for batch in self.instance._ahead.batches for job in batch.jobs]

    async def until(self, condition):
        with trio.fail_after(PATIENCE_S):
            while not condition():  # noqa: ASYNC110  another process brings it about
                await trio.sleep(0.005)

    async def ask(self, id, code="pass", patience_s=0.0):
        with trio.CancelScope() as self.scopes[id]:
            try:
                said = Tensor.of("IN", np.array([[code.encode()]], object))
                asked = InferenceRequest("m", {"IN": said}, id=id)
                deadline = trio.current_time() + patience_s if patience_s else 0.0
                response = await self.engine.infer_request(asked, deadline=deadline)
                self.answers[id] = response.outputs[0].numpy().item().decode()
            except despina.Fault as fault:
                self.answers[id] = fault

    async def asked(self, id, *arguments):
        """Asks, and returns when it is queued."""
        live = self.version.scheduler.live
        self.nursery.start_soon(self.ask, id, *arguments)
        await self.until(lambda: self.version.scheduler.live > live)

    async def wait_for(self, *ids):
        await self.until(lambda: all(id in self.answers for id in ids))

    async def begin(self, now="wait('now')", late=()):
        """Until `now` is executed while `b` and `c` wait at the process; `late` is of `b`."""
        await self.ask("known")  # how long an execution lasts
        self.nursery.start_soon(self.ask, "first", "wait('first')")
        await self.until(lambda: "first" in self.begun)
        await self.asked("now", now)
        await self.asked("b", "pass", *late)
        await self.asked("c")
        self.let("first")
        await self.until(lambda: "now" in self.begun)
        await self.wait_for("first")

    async def end(self):
        """All goes on as before: others are handed over before their turn, and executed in order."""
        self.nursery.start_soon(self.ask, "again", "wait('again')")
        await self.until(lambda: "again" in self.begun)
        for id in "xyz":
            await self.asked(id)
        self.let("again")
        await self.wait_for(*"xyz")
        assert self.begun[-3:] == [*"xyz"]
        assert self.version.ledger.inflight == self.version.scheduler.live == 0
        assert self.instance._ahead.batches == self.instance._ahead._executor._line.begun == line.deque()


@pytest.fixture
def told(tmp_path, monkeypatch):
    """`async with told() as story`."""
    monkeypatch.setattr(line, "AHEAD_S_MAX", 1e9)  # however slow the machine is

    @contextlib.asynccontextmanager
    async def tell(more="", **options):
        (tmp_path / "models" / "m" / "1").mkdir(parents=True)
        (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG + more)
        text = MODEL.replace("class Triton", f"FOLDER = Path({str(tmp_path)!r})\n\nclass Triton")
        (tmp_path / "models" / "m" / "1" / "model.py").write_text(text)
        async with despina.open_engine(tmp_path / "models", **options) as engine, trio.open_nursery() as nursery:
            yield Story(engine, tmp_path, nursery)

    return tell


async def test_they_are_answered_in_turn(told):
    """Goal: they wait at the process, are executed in order, and each is told its own answer; then all is idle."""
    async with told() as story:
        await story.begin()
        assert story.ahead == ["b", "c"]
        assert story.version.pending == 0
        story.let("now")
        await story.wait_for("now", "b", "c")
        assert story.begun == ["known", "first", "now", "b", "c"]
        assert len({*story.answers.values()}) == 1
        await story.end()


async def test_who_leaves_is_not_executed(told):
    """Goal: who leaves while he waits at the process gives his place back at once; the others keep theirs."""
    async with told() as story:
        await story.begin()
        unserved = story.version.statistics.unserved
        story.scopes["b"].cancel()
        await story.until(lambda: unserved["left_queued"] == 1)
        assert story.ahead == []
        assert story.version.ledger.inflight == 2
        story.let("now")
        await story.wait_for("now", "c")
        assert story.begun == ["known", "first", "now", "c"]
        assert unserved["left_executing"] == 0
        await story.end()


async def test_who_leaves_while_he_is_executed(told):
    """Goal: the execution goes on, and those who wait behind it are executed."""
    async with told() as story:
        await story.begin()
        story.scopes["now"].cancel()
        await story.until(lambda: story.version.statistics.unserved["left_executing"] == 1)
        story.let("now")
        await story.wait_for("b", "c")
        assert story.begun == ["known", "first", "now", "b", "c"]
        await story.end()


async def test_who_is_late_is_not_executed(told):
    """Goal: a deadline that passes at the process is one that passes in the queue."""
    async with told() as story:
        await story.begin(late=(2.0,))
        await story.wait_for("b")
        assert isinstance(story.answers["b"], DeadlineExceeded)
        story.let("now")
        await story.wait_for("now", "c")
        assert story.begun == ["known", "first", "now", "c"]
        assert story.version.statistics.unserved["deadline_executing"] == 0
        await story.end()


async def test_what_the_process_finds_too_late_is_not_executed(told, monkeypatch):
    """Goal: the process looks at the time itself. Method: the server does not look."""
    async with told() as story:
        monkeypatch.setattr(story.version.limits.timers, "_expire", lambda *_: None)
        await story.begin(late=(2.0,))
        await trio.sleep(2.2)
        story.let("now")
        await story.wait_for("now", "b", "c")
        assert isinstance(story.answers["b"], DeadlineExceeded)
        assert "b" not in story.begun
        await story.end()


async def test_a_queue_timeout_passes_at_the_process(told):
    """Goal: what a queue policy says of waiting holds there, too."""
    policy = "default_queue_policy { default_timeout_microseconds: 3000000 }"
    async with told(f"dynamic_batching {{ {policy} }}") as story:
        await story.begin()
        await story.wait_for("b", "c")
        assert isinstance(story.answers["b"], QueueTimeout)
        assert isinstance(story.answers["c"], QueueTimeout)
        story.let("now")
        await story.wait_for("now")
        assert story.begun == ["known", "first", "now"]


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"])
async def test_the_process_dies(told, code):
    """Goal: only what it executed fails; what waited there is executed by the next one, once, in order."""
    async with told(restart=SOON) as story:
        await story.begin(f"wait('now'); {code}")
        assert story.ahead == ["b", "c"]
        story.let("now")
        await story.wait_for("now", "b", "c")
        assert isinstance(story.answers["now"], ExecutorDied)
        assert story.answers["b"] == story.answers["c"] != story.answers["known"]
        assert story.begun == ["known", "first", "now", "b", "c"]
        await story.end()


async def test_the_process_dies_and_nothing_may_wait(told):
    """Goal: where what waits is refused while nobody serves, so is what waited at the process."""
    async with told(restart=Restart(backoff_min_s=0.2, jitter=0), queue_while_down="refuse") as story:
        await story.begin("wait('now'); os._exit(3)")
        story.let("now")
        await story.wait_for("now", "b", "c")
        assert isinstance(story.answers["b"], despina.Unavailable)
        assert isinstance(story.answers["c"], despina.Unavailable)
        assert story.begun == ["known", "first", "now"]


async def test_the_model_is_unloaded(told):
    """Goal: who waits at the process is executed, as who waits in the queue is, and then the process ends."""
    async with told(model_control_mode="explicit", load_model=["m"]) as story:
        await story.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(story.engine.unload, "m")
            await story.until(lambda: not story.version.accepting)
            story.let("now")
        await story.wait_for("now", "b", "c")
        assert {story.answers[id] for id in ("now", "b", "c")} == {story.answers["known"]}


async def test_their_time_in_the_queue(told):
    """Goal: who waits at the process waits; what is computed begins when the process begins it."""
    async with told() as story:
        began = time.monotonic_ns()
        await story.begin()
        halfway = time.monotonic_ns()
        await trio.sleep(0.5)
        held_ns = time.monotonic_ns() - halfway
        story.let("now")
        await story.wait_for("now", "b", "c")
        lasted_ns = time.monotonic_ns() - began
        stats = story.engine.statistics("m")[0].inference_stats
        assert stats.success.count == 5
        assert stats.queue.ns >= 2 * held_ns  # b's and c's
        computed_ns = stats.compute_input.ns + stats.compute_infer.ns + stats.compute_output.ns
        assert held_ns <= computed_ns < held_ns + lasted_ns  # `now` alone was held


async def test_what_waits_at_the_process_waits_for_what_it_executes(told):
    """Goal: whoever looks for requests that wait for each other sees that."""
    async with told() as story:
        await story.begin()
        (waiting,) = story.instance._ahead.batches[0].jobs
        assert story.version.blockers(waiting) == [story.instance.current.jobs]
        assert [job.request.id for job in story.instance.current.jobs] == ["now"]
        story.let("now")
        await story.wait_for("b", "c")


async def test_the_log_names_what_is_executed(told, caplog):
    """Goal: a line of the model's is about the request that it executes, not about those that wait there."""
    caplog.set_level(logging.WARNING, "despina.model")
    async with told() as story:
        await story.begin("wait('now'); pb_utils.Logger.log_warn('said')")
        story.let("now")
        await story.wait_for("now", "b", "c")
        (record,) = [record for record in caplog.records if record.getMessage() == "said"]
        assert [request.request_id for request in concern_of(record).requests] == ["now"]


async def test_a_second_instance_takes_what_waits_at_the_first(told, tmp_path):
    """Goal: who waits at a process that is busy is executed by one that is opened meanwhile."""
    async with told(model_control_mode="explicit", load_model=["m"]) as story:
        await story.begin()
        assert story.ahead == ["b", "c"]
        path = tmp_path / "models" / "m" / "config.pbtxt"
        path.write_text(path.read_text().replace("count: 1", "count: 2"))
        await story.engine.load("m")
        await story.wait_for("b", "c")
        assert story.answers["b"] != story.answers["known"]
        assert "now" not in story.answers
        story.let("now")
        await story.wait_for("now")


@pytest.mark.interpreted
async def test_long_executions_and_large_requests_wait_for_their_turn(told, monkeypatch):
    """Goal: nothing goes ahead where an execution is long as a rule, or where its inputs take shared memory."""
    async with told() as story:
        await story.ask("known")
        room = story.instance._ahead._executor._line
        assert room.room == line.AHEAD_MAX
        monkeypatch.setattr(line, "AHEAD_S_MAX", 0.0)
        assert room.room == 0
        monkeypatch.setattr(line, "AHEAD_S_MAX", 1e9)
        story.nursery.start_soon(story.ask, "first", "wait('first')")
        await story.until(lambda: "first" in story.begun)
        await story.asked("now", "wait('now')")
        await story.asked("b", f"pass #{'x' * 20_000}")
        await story.asked("c")
        story.let("first")
        await story.until(lambda: "now" in story.begun)
        await story.wait_for("first")
        assert story.ahead == []
        assert story.version.pending == 2
        story.let("now")
        await story.wait_for("now", "b", "c")
        assert story.begun == ["known", "first", "now", "b", "c"]


async def test_executions_with_a_time_limit_wait_for_their_turn(told):
    """Goal: the limit is that of one execution, so nothing goes ahead."""
    limit = 'parameters { key: "DESPINA_EXECUTION_SECONDS_MAX" value { string_value: "100" } }'
    async with told(limit) as story:
        await story.begin()
        assert story.ahead == []
        story.let("now")
        await story.wait_for("now", "b", "c")
