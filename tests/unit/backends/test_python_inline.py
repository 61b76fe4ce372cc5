"""Python models that are executed on the engine's own thread (DESPINA_EXECUTOR = inline), alone, as sequences and as
steps of ensembles: what clients, counts and traces say is what they say of models on threads."""

import logging
import textwrap
from contextlib import asynccontextmanager

import despina
import pytest
import trio
from despina.engine.port.settings import TraceSettings
from despina.schema.fault import Cancelled, Fault

from tests import in_process
from tests.fakes import chain, request, value_of, write_ensemble, write_model
from tests.unit.tracing.test_trace_files import names, traces

PLACE = 'parameters {{ key: "DESPINA_EXECUTOR" value {{ string_value: "{}" }} }}\n'.format
INLINE = PLACE("inline")
MODEL = """
import asyncio, concurrent.futures, time
import triton_python_backend_utils as pb_utils

def plus(each, number):
    values = pb_utils.get_input_tensor_by_name(each, "IN").as_numpy()
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values + number)])

class TritonPythonModel:
"""
PLUS_ONE = "def execute(self, requests):\n    return [plus(each, 1) for each in requests]"
SEQUENCES = "sequence_batching { max_sequence_idle_microseconds: 60000000 %s }\n"


def write(folder, name, code=PLUS_ONE, *, more=INLINE, **options):
    """A model in Python, of which `code` is the class's body; it executes inline unless `more` says otherwise."""
    write_model(folder, name, backend="python", more=more, **options)
    (folder / name / "1" / "model.py").write_text(MODEL + textwrap.indent(textwrap.dedent(code), " " * 4))


@asynccontextmanager
async def opened(folder, **options):
    """An engine whose instances' own threads have looked for work once, as they do when they are new."""
    async with despina.open_engine(folder, backend_config=in_process.SETTING, **options) as engine:
        with trio.fail_after(30):
            for version in engine.versions():
                while version.depth == 0 and not version.scheduler.idle:  # noqa: ASYNC110  a thread puts itself there
                    await trio.sleep(0.001)
        yield engine


def counts(engine, name):
    """Successes, failures by reason, executions inline, and what is in flight."""
    version = engine.model(name)
    said = version.statistics
    return said.success_count, {k: v for k, v in said.failures.items() if v}, said.inline_count, version.ledger.inflight


@pytest.mark.parametrize("batching", ["", "dynamic_batching {}\n"])
async def test_an_ensemble_is_told_of_as_on_a_thread(tmp_path, batching):
    """Goal: the same answers, counts and moments on file wherever its models are executed; inline is inline."""
    said = {}
    for place in ("inline", "thread"):
        folder = tmp_path / place
        models = folder / "models"
        for name in "ab":
            write(models, name, more=PLACE(place) + batching)
        write_ensemble(models, "e", steps=chain("a", "b"))
        async with opened(
            models, trace=TraceSettings(level=["TIMESTAMPS"], rate=1, file=str(folder / "trace.json"))
        ) as engine:
            values = [value_of(await engine.infer_request(request("e", value))) for value in range(3)]
            assert values == [2, 3, 4]
            said[place] = [counts(engine, name) for name in "abe"]
        moments = {}
        for objects in traces(folder / "trace.json").values():
            moments.setdefault(objects[0]["model_name"], []).append(names(objects))
        said[place].append(moments)
    assert said["inline"][0] == said["inline"][1] == (3, {}, 3, 0)
    assert [(*one[:2], one[3]) for one in said["inline"][:3]] == [(*one[:2], one[3]) for one in said["thread"][:3]]
    assert {key: len(value) for key, value in said["inline"][3].items()} == {"a": 3, "b": 3, "e": 3}
    assert said["inline"][3] == said["thread"][3]


@pytest.mark.parametrize("raised", ["ValueError('broken')", "SystemExit('broken')"])
@pytest.mark.parametrize("batching", ["", "dynamic_batching {}\n"])
async def test_a_step_that_raises(tmp_path, raised, batching):
    """Goal: its caller hears of it, the books are right, and the server goes on."""
    write(tmp_path, "a", more=INLINE + batching)
    code = f"def execute(self, requests):\n    self.execute = None\n    raise {raised}"
    write(tmp_path, "b", code, more=INLINE + batching)
    write_ensemble(tmp_path, "e", steps=chain("a", "b"))
    async with opened(tmp_path) as engine:
        for _ in range(2):
            with pytest.raises(Fault, match=r"in ensemble 'e', .*broken"):
                await engine.infer_request(request("e"))
        assert [counts(engine, name)[:2] for name in "abe"] == [(2, {}), (0, {"BACKEND": 2}), (0, {"OTHER": 2})]
        assert [counts(engine, name)[3] for name in "abe"] == [0, 0, 0]
        assert value_of(await engine.infer_request(request("a", 5))) == 6
        assert engine.model("e").ledger.broken == 0


async def test_who_leaves_before_its_turn(tmp_path):
    """Goal: of three who are found in one pass, one leaves: it is not executed, nor any step of it; the others share
    their batches."""
    for name in "ab":
        write(tmp_path, name, more=INLINE + "dynamic_batching {}\n")
    write_ensemble(tmp_path, "e", steps=chain("a", "b"))
    told = []
    async with opened(tmp_path) as engine:
        engine.inline.begin_pass()
        jobs = [engine.model("e").submit(request("e", value), told.append) for value in range(3)]
        jobs[1].cancel()
        engine.inline.end_pass()
        with trio.fail_after(10):
            while len(told) < 2:  # noqa: ASYNC110  what follows a step may be the runner's task's
                await trio.sleep(0.001)
        assert [value_of(job.response) for job in told] == [2, 4]
        assert isinstance(jobs[1].fault, Cancelled)
        assert counts(engine, "a") == (2, {"CANCELED": 1}, 1, 0)
        assert counts(engine, "b") == (2, {}, 1, 0)
        assert counts(engine, "e") == (2, {"CANCELED": 1}, 0, 0)


@pytest.mark.parametrize("strategy", ["direct {}", "oldest { max_candidate_sequences: 4 }"])
async def test_sequences(tmp_path, strategy):
    """Goal: each has its own requests in order, inline."""
    code = """
        def initialize(self, args):
            self.sums = {}
        def execute(self, requests):
            return [self.one(each) for each in requests]
        def one(self, each):
            sequence, number = each.correlation_id(), pb_utils.get_input_tensor_by_name(each, "IN").as_numpy()[0, 0]
            if each.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.sums[sequence] = 0
            before = self.sums.get(sequence, 0)  # 0 is the sequence of a slot without a request
            self.sums[sequence] = before + number
            return plus(each, before)
    """
    write(tmp_path, "m", code, more=INLINE + SEQUENCES % strategy)
    async with opened(tmp_path) as engine:
        sums = []
        for index in range(4):
            for sequence in (7, 8):
                asked = request(
                    "m", sequence, correlation_id=sequence, sequence_start=not index, sequence_end=index == 3
                )
                sums.append(value_of(await engine.infer_request(asked)))
        assert sums == [7, 8, 14, 16, 21, 24, 28, 32]
        assert counts(engine, "m") == (8, {}, 8, 0)


async def test_a_coroutine_is_run_to_its_end(tmp_path):
    code = """
        async def execute(self, requests):
            await asyncio.sleep(0)
            return [plus(each, 1) for each in requests]
    """
    write(tmp_path, "m", code)
    async with opened(tmp_path) as engine:
        assert value_of(await engine.infer_request(request("m", 5))) == 6
        assert counts(engine, "m") == (1, {}, 1, 0)


async def test_a_model_asks_no_other_by_a_thread_that_it_waits_for(tmp_path):
    """Goal: what would wait for ever, and hold up the whole server, is refused by name. Method: give the answer up in
    the model after a time, so that a version that waits fails here."""
    code = """
        def execute(self, requests):
            pool = concurrent.futures.ThreadPoolExecutor()
            return [pool.submit(self.one, each).result(timeout=10) for each in requests]
        def one(self, each):
            values = pb_utils.get_input_tensor_by_name(each, "IN")
            return pb_utils.InferenceRequest(model_name="other", inputs=[values], requested_output_names=["OUT"]).exec()
    """
    write(tmp_path, "other")
    write(tmp_path, "m", code)
    async with opened(tmp_path) as engine:
        with pytest.raises(Fault, match=r"executes on the engine's own thread.*take DESPINA_EXECUTOR out"):
            await engine.infer_request(request("m", 5))
        assert value_of(await engine.infer_request(request("other", 5))) == 6


@pytest.mark.parametrize(("more", "lines"), [(INLINE, 1), (INLINE + "dynamic_batching {}\n", 1), (PLACE("thread"), 0)])
async def test_who_holds_everybody_up_is_in_the_log(tmp_path, caplog, more, lines):
    """Goal: one line names the model and the way out."""
    write(
        tmp_path,
        "m",
        "def execute(self, requests):\n    time.sleep(0.15)\n    return [plus(each, 1) for each in requests]",
        more=more,
    )
    with caplog.at_level(logging.WARNING, "despina.engine"):
        async with opened(tmp_path) as engine:
            assert value_of(await engine.infer_request(request("m", 5))) == 6
    found = [one.getMessage() for one in caplog.records if "held up" in one.getMessage()]
    assert len(found) == lines
    assert all(text.startswith("model 'm' executes on the engine's own thread") for text in found)


async def test_how_often_it_is_in_the_log(tmp_path, caplog):
    """Goal: single short executions are not told of; long ones are, again only when twice as long; nor are all that are
    rather long, once it is known."""
    write(tmp_path, "m")
    async with opened(tmp_path) as engine:
        await engine.infer_request(request("m"))
        placement, cost = engine.model("m").placement, engine.model("m")._feed.cost

        def told(*lasted_s):
            caplog.clear()
            for each in lasted_s:
                placement._tell_if_held(each)
            return len(caplog.records)

        cost.cost_s = 0.001
        assert told(0.001, 0.05) == 0
        cost.cost_s = 0.02
        assert told(0.02, 0.02) == 1
        assert told(0.15, 0.25, 0.29, 0.31) == 2
