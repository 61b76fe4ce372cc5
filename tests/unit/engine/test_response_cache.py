"""Answers that are kept: hits, deadlines, who leaves, joining, and caches that fail. On virtual time."""

from __future__ import annotations

import json
import threading
from contextlib import asynccontextmanager

import attrs
import numpy as np
import pytest
import trio
import trio.testing
from despina import DeadlineExceeded, Fault, InvalidArgument, ModelFailure, TraceSettings
from despina.backends.caches.local import LocalCache
from despina.schema.tensor import Tensor

from tests.fakes import SCALAR_IO, Gate, request, touch, value_of, write_model
from tests.unit.engine.test_shared_memory_requests import Client, bytes_of, shared_request

CACHED = "response_cache { enable: true }"


class ElsewhereCache:
    """A cache elsewhere that tests script."""

    calls_max = 2
    timeout_s = 1.0

    def __init__(self):
        self.entries = {}
        self.lookups = []
        self.wait_s = 0.0
        self.error = None
        self.closed = False

    async def lookup(self, key):
        self.lookups.append(key)
        await trio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error
        return self.entries.get(key)

    async def insert(self, key, entry):
        await trio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error
        self.entries[key] = entry
        return True

    async def close(self):
        self.closed = True


@pytest.fixture
def client():
    made = Client()
    yield made
    made.close()


@pytest.fixture
def elsewhere():
    return ElsewhereCache()


@pytest.fixture
def cached(repository, opened, elsewhere):
    """`async with cached(cache, **options) as engine`: an engine with that cache and the model `m`, which uses it."""
    write_model(repository, "m", more=CACHED)

    @asynccontextmanager
    async def open_it(kind="local", size=100_000, **options):
        settings = {"local": {"size": str(size)}, "elsewhere": {}}[kind]
        async with opened(
            cache_config={kind: settings}, caches={"elsewhere": lambda _: elsewhere}, **options
        ) as engine:
            yield engine

    return open_it


@attrs.define
class Counts:
    """Of one model version."""

    success: int
    fail: int
    hits: int
    misses: int
    computed: int
    executions: int


def counts(engine, name="m"):
    (message,) = engine.statistics(name)
    stats = message.inference_stats
    return Counts(
        success=stats.success.count,
        fail=stats.fail.count,
        hits=stats.cache_hit.count,
        misses=stats.cache_miss.count,
        computed=stats.compute_infer.count,
        executions=message.execution_count,
    )


async def settle():
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
async def test_an_equal_request_is_not_executed_again(virtual_time, cached, backend, kind):
    """Goal: the second answer is the first one's, with its own id, and counts as a hit."""
    async with cached(kind) as engine:
        first = await engine.infer_request(request(value=7, id="a"))
        await settle()
        second = await engine.infer_request(request(value=7, id="b"))
        other = await engine.infer_request(request(value=8, id="c"))
        await settle()
        assert counts(engine) == Counts(success=3, fail=0, hits=1, misses=2, computed=2, executions=2)
    assert (value_of(first), value_of(second), value_of(other)) == (7, 7, 8)
    assert (second.id, second.model_name, second.model_version) == ("b", "m", "1")
    assert backend.ids == [["a"], ["c"]]


async def test_a_model_that_does_not_ask_has_no_cache(virtual_time, repository, cached, backend):
    """Goal: a cache of the server's changes nothing for a model without one of its own."""
    write_model(repository, "plain")
    async with cached() as engine:
        for id in "ab":
            await engine.infer_request(request("plain", value=7, id=id))
        assert type(engine.model("plain")).__name__ == "ModelVersion"
        assert counts(engine, "plain") == Counts(success=2, fail=0, hits=0, misses=0, computed=2, executions=2)
    assert backend.ids == [["a"], ["b"]]


async def test_without_a_cache_of_the_servers_nothing_is_kept(virtual_time, repository, opened, backend):
    """Goal: a model may ask for a cache that the server does not have."""
    write_model(repository, "m", more=CACHED)
    async with opened() as engine:
        for id in "ab":
            await engine.infer_request(request(value=7, id=id))
    assert backend.ids == [["a"], ["b"]]


async def test_who_passes_the_cache_by_is_executed_and_not_kept(virtual_time, cached, backend):
    """Goal: one request can do without the cache, and leaves no trace in it."""
    by = {"despina_cache": "bypass"}
    async with cached() as engine:
        for id, parameters in (("a", by), ("b", None), ("c", by), ("d", None)):
            await engine.infer_request(request(value=7, id=id, parameters=parameters))
        with pytest.raises(InvalidArgument, match="parameter 'despina_cache' must be 'bypass', got 'no'"):
            await engine.infer_request(request(parameters={"despina_cache": "no"}))
    assert backend.ids == [["a"], ["b"], ["c"]]


async def test_an_error_is_not_kept(virtual_time, cached, backend):
    """Goal: what failed is executed again."""

    async def fail(batch):
        batch.jobs[0].fail(ModelFailure("no"))

    backend.execute = fail
    async with cached() as engine:
        for id in "ab":
            with pytest.raises(ModelFailure, match="no"):
                await engine.infer_request(request(id=id))
        assert counts(engine) == Counts(success=0, fail=2, hits=0, misses=0, computed=0, executions=2)
    assert backend.ids == [["a"], ["b"]]


async def test_a_request_that_does_not_fit_is_refused_before_any_look(virtual_time, cached):
    """Goal: the cache hides no fault of a request, also where its bytes are known."""
    async with cached() as engine:
        await engine.infer_request(request(value=7))
        wrong = request(value=7)
        wrong.inputs["IN"] = Tensor.of("IN", np.full((1, 1), 7, np.uint32))
        with pytest.raises(InvalidArgument, match="data-type"):
            await engine.infer_request(wrong)
        assert counts(engine).hits == 0


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
async def test_another_make_of_the_model_finds_nothing(virtual_time, repository, cached, backend, kind):
    """Goal: after a reload no answer of the earlier make is given."""
    async with cached(kind, model_control_mode="explicit", load_model=["m"]) as engine:
        await engine.infer_request(request(value=7, id="a"))
        await settle()
        path = write_model(repository, "m", more=CACHED + "\nmetric_tags { key: 'x' value: 'y' }")
        touch(path / "config.pbtxt", 5)
        await engine.load("m")
        await engine.infer_request(request(value=7, id="b"))
        await settle()
        await engine.infer_request(request(value=7, id="c"))
    assert backend.ids == [["a"], ["b"]]


async def test_engines_share_what_is_kept_elsewhere(virtual_time, cached, backend, elsewhere):
    """Goal: an engine that starts again over the same files finds its answers."""
    for id in "ab":
        async with cached("elsewhere") as engine:
            await engine.infer_request(request(value=7, id=id))
            await settle()
        assert elsewhere.closed
    assert backend.ids == [["a"]]


async def test_the_longest_unused_goes_first_and_the_too_large_is_not_kept(virtual_time, cached, backend):
    """Goal: the bound holds over all entries, and an answer beyond it is only given."""
    async with cached(size=1500) as engine:
        for value in (1, 2, 3, 1, 4, 2, 1):
            await engine.infer_request(request(value=value, id=str(value)))
        await engine.infer_request(request(value=9, rows=8, id="wide"))
        assert engine.cache.fill.used_bytes <= 1500
        assert engine.cache.fill.evictions > 0
    assert backend.ids[:4] == [["1"], ["2"], ["3"], ["4"]]


# --- Leaving and deadlines


async def ask(engine, seen, id, **options):
    try:
        await engine.infer_request(request(value=7, id=id), **options)
        seen[id] = "answered"
    except Fault as fault:
        seen[id] = type(fault).__name__


@pytest.mark.parametrize("joins", [False, True])
async def test_who_leaves_alone_takes_its_execution_along(virtual_time, cached, backend, joins):
    """Goal: without others that wait, leaving is as without a cache: counted once, nothing kept, nothing left."""
    backend.execute = gate = Gate()
    async with cached(cache_joins=joins) as engine, trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(_cancelled, scope, engine)
        await settle()
        scope.cancel()
        await settle()
        gate.release()
        await settle()
        assert counts(engine) == Counts(success=0, fail=1, hits=0, misses=0, computed=0, executions=1)
        assert engine.model("m").ledger.inflight == 0
        assert engine.cache.fill.entries == 0


async def _cancelled(scope, engine, seen=None, id="gone"):
    with scope:
        await ask(engine, {} if seen is None else seen, id)


async def test_equal_requests_share_one_execution_where_asked_for(virtual_time, cached, backend):
    """Goal: no thundering herd: a hundred equal requests at once are one execution, each answered with its own id."""
    backend.cost_s = 1.0
    responses = []

    async def one(id):
        responses.append(await engine.infer_request(request(value=7, id=id)))

    async with cached(cache_joins=True) as engine:
        async with trio.open_nursery() as nursery:
            for index in range(100):
                nursery.start_soon(one, str(index))
        assert trio.current_time() == pytest.approx(1.0)
        assert counts(engine) == Counts(success=100, fail=0, hits=99, misses=1, computed=1, executions=1)
        assert engine.model("m").ledger.inflight == 0
    assert {response.id for response in responses} == {str(index) for index in range(100)}
    assert {value_of(response) for response in responses} == {7}


async def test_without_joining_equal_requests_execute_each(virtual_time, cached, backend):
    """Goal: joining is off unless asked for, as at the reference server."""
    backend.execute = gate = Gate()
    seen = {}
    async with cached() as engine, trio.open_nursery() as nursery:
        for id in "abc":
            nursery.start_soon(ask, engine, seen, id)
            await settle()
        for _ in range(3):
            gate.release()
            await settle()
    assert sorted(id for ids in backend.ids for id in ids) == ["a", "b", "c"]


async def test_the_first_may_leave_the_others_are_answered(virtual_time, cached, backend):
    """Goal: the one whose request executes leaves; those who wait for it hear nothing of that."""
    backend.execute = gate = Gate()
    seen = {}
    async with cached(cache_joins=True) as engine, trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(_cancelled, scope, engine, seen, "first")
        await settle()
        for id in ("second", "third"):
            nursery.start_soon(ask, engine, seen, id)
        await settle()
        scope.cancel()
        await settle()
        gate.release()
        await settle()
        assert seen == {"second": "answered", "third": "answered"}
        assert counts(engine) == Counts(success=2, fail=1, hits=1, misses=1, computed=1, executions=1)
        assert engine.model("m").ledger.inflight == 0
    assert backend.ids == [["first"]]


async def test_one_of_those_who_wait_may_leave(virtual_time, cached, backend):
    """Goal: leaving takes nobody else along, and all leaving ends the execution's use."""
    backend.execute = gate = Gate()
    seen = {}
    async with cached(cache_joins=True) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(ask, engine, seen, "first")
        await settle()
        scope = trio.CancelScope()
        nursery.start_soon(_cancelled, scope, engine, seen, "second")
        await settle()
        scope.cancel()
        await settle()
        gate.release()
        await settle()
        assert seen == {"first": "answered"}
        assert counts(engine) == Counts(success=1, fail=1, hits=0, misses=1, computed=1, executions=1)


async def test_each_has_its_own_deadline(virtual_time, cached, backend):
    """Goal: whoever is late hears so at its time, whether it stands for the execution or waits for another's."""
    backend.execute = gate = Gate()
    seen = {}
    async with cached(cache_joins=True) as engine, trio.open_nursery() as nursery:
        now = trio.current_time()
        nursery.start_soon(lambda: ask(engine, seen, "first", deadline=now + 1))
        await settle()
        nursery.start_soon(lambda: ask(engine, seen, "second", deadline=now + 2))
        nursery.start_soon(ask, engine, seen, "third")
        await trio.sleep(1.5)
        assert seen == {"first": "DeadlineExceeded"}
        await trio.sleep(1)
        assert seen == {"first": "DeadlineExceeded", "second": "DeadlineExceeded"}
        gate.release()
        await settle()
        assert seen["third"] == "answered"
        assert counts(engine) == Counts(success=1, fail=2, hits=0, misses=1, computed=1, executions=1)


async def test_a_failure_is_not_shared(virtual_time, cached, backend):
    """Goal: if the execution fails its first caller hears why, and the others are executed by themselves."""
    executed = []

    async def first_fails(batch):
        executed.extend(job.request.id for job in batch.jobs)
        await trio.sleep(1)
        for job in batch.jobs:
            if job.request.id == "first":
                job.fail(ModelFailure("no"))
            else:
                job.respond([Tensor.of("OUT", job.request.inputs["IN"].numpy())])

    backend.execute = first_fails
    seen = {}
    async with cached(cache_joins=True) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, seen, "first")
            await settle()
            for id in ("second", "third"):
                nursery.start_soon(ask, engine, seen, id)
        assert seen == {"first": "ModelFailure", "second": "answered", "third": "answered"}
        assert engine.model("m").ledger.inflight == 0
    assert sorted(executed) == ["first", "second", "third"]


async def test_a_refusal_is_raised_and_counted_nowhere(virtual_time, cached, backend):
    """Goal: a full queue is no matter of the cache's."""
    backend.execute = gate = Gate()
    seen = {}
    async with cached(queue_size_max=1) as engine, trio.open_nursery() as nursery:
        for id in "abc":
            nursery.start_soon(lambda id=id: engine_ask(engine, seen, id))
            await settle()
        assert seen == {"c": "QueueFull"}
        assert engine.model("m").ledger.inflight == 4  # two calls, each with its execution
        for _ in range(2):
            gate.release()
            await settle()
        assert engine.model("m").ledger.inflight == 0
        assert counts(engine).fail == 0


async def engine_ask(engine, seen, id):
    try:
        await engine.infer_request(request(value=ord(id), id=id))
    except Fault as fault:
        seen[id] = type(fault).__name__


async def test_what_is_under_way_is_finished_when_the_model_goes(virtual_time, cached, backend, elsewhere):
    """Goal: an unload waits for look-ups and for those who wait for another's answer."""
    elsewhere.wait_s = 0.5
    backend.cost_s = 1.0
    seen = {}
    async with cached("elsewhere", cache_joins=True, model_control_mode="explicit", load_model=["m"]) as engine:
        async with trio.open_nursery() as nursery:
            for id in ("looks", "looks too"):
                nursery.start_soon(ask, engine, seen, id)
            await trio.sleep(0.1)
            await engine.unload("m")
        assert seen == {"looks": "answered", "looks too": "answered"}


# --- Caches that fail


async def test_a_cache_that_does_not_answer_costs_its_time_limit_once(virtual_time, cached, backend, elsewhere):
    """Goal: nothing hangs: the request is executed, and the cache is left alone for a while, then asked again."""
    elsewhere.wait_s = 1000.0
    async with cached("elsewhere") as engine:
        began = trio.current_time()
        await engine.infer_request(request(value=7, id="a"))
        assert trio.current_time() - began == pytest.approx(1.0)
        await engine.infer_request(request(value=7, id="b"))
        assert trio.current_time() - began == pytest.approx(1.0)
        assert len(elsewhere.lookups) == 1
        assert counts(engine) == Counts(success=2, fail=0, hits=0, misses=0, computed=2, executions=2)
        elsewhere.wait_s = 0.0
        await trio.sleep(1.1)
        for id in "cd":
            await engine.infer_request(request(value=7, id=id))
            await settle()
    assert backend.ids == [["a"], ["b"], ["c"]]


async def test_a_cache_that_fails_is_never_heard_of(virtual_time, cached, backend, elsewhere, caplog):
    """Goal: whatever it raises is a miss; while it fails it is asked less and less often."""
    elsewhere.error = ConnectionResetError("gone")
    async with cached("elsewhere") as engine:
        for _ in range(60):
            await engine.infer_request(request(value=7))
            await trio.sleep(1)
        assert counts(engine).success == 60
        assert 4 <= len(elsewhere.lookups) <= 7
        assert engine.cache.failures == len(elsewhere.lookups)
    assert "left alone for 1 s: ConnectionResetError: gone" in caplog.text


async def test_many_who_wait_for_a_dead_cache_wait_no_longer_than_one(virtual_time, cached, elsewhere):
    """Goal: the time limit holds for those in line, too."""
    elsewhere.wait_s = 1000.0
    seen = {}
    async with cached("elsewhere") as engine:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for index in range(500):
                nursery.start_soon(engine_ask, engine, seen, chr(1000 + index))
        assert trio.current_time() - began == pytest.approx(1.0)
        assert counts(engine).success == 500


@pytest.mark.parametrize("damage", [
    lambda entry: b"",
    lambda entry: entry[:-1],
    lambda entry: entry + b"x",
    lambda entry: entry[:40] + bytes([entry[40] ^ 1]) + entry[41:],
    lambda entry: b"\xff" * len(entry),
    lambda entry: 17,
])  # fmt: skip
async def test_a_cache_that_lies_is_not_believed(virtual_time, cached, backend, elsewhere, damage):
    """Goal: a damaged entry is a miss, and is replaced."""
    async with cached("elsewhere") as engine:
        await engine.infer_request(request(value=7, id="a"))
        await settle()
        ((key, entry),) = elsewhere.entries.items()
        elsewhere.entries[key] = damage(entry)
        assert value_of(await engine.infer_request(request(value=7, id="b"))) == 7
        await settle()
        assert elsewhere.entries[key] == entry
        assert value_of(await engine.infer_request(request(value=7, id="c"))) == 7
    assert backend.ids == [["a"], ["b"]]


async def test_an_entry_of_another_key_is_not_believed(virtual_time, cached, elsewhere):
    """Goal: a cache that mixes up its keys gives no request another one's answer."""
    async with cached("elsewhere") as engine:
        await engine.infer_request(request(value=7))
        await engine.infer_request(request(value=8))
        await settle()
        (one, first), (two, second) = elsewhere.entries.items()
        elsewhere.entries.update({one: second, two: first})
        assert value_of(await engine.infer_request(request(value=7))) == 7
        assert engine.cache.hits == 0


async def test_a_cache_in_the_process_may_fail_too(virtual_time, cached, backend, monkeypatch):
    """Goal: an exception out of a cache's own code reaches nobody."""

    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(LocalCache, "lookup_now", broken)
    monkeypatch.setattr(LocalCache, "insert_now", broken)
    async with cached() as engine:
        assert value_of(await engine.infer_request(request(value=7))) == 7
        assert counts(engine) == Counts(success=1, fail=0, hits=0, misses=0, computed=1, executions=1)


async def test_a_caller_that_leaves_while_it_is_looked_up_counts_as_cancelled(virtual_time, cached, backend, elsewhere):
    """Goal: nothing is executed for it, and nothing stays behind."""
    elsewhere.wait_s = 0.5
    async with cached("elsewhere") as engine:
        with trio.move_on_after(0.1):
            await engine.infer_request(request(value=7))
        with pytest.raises(DeadlineExceeded):
            await engine.infer_request(request(value=7), deadline=trio.current_time() + 0.2)
        await trio.sleep(2)
        assert counts(engine) == Counts(success=0, fail=2, hits=0, misses=0, computed=0, executions=0)
        assert engine.model("m").ledger.inflight == 0
    assert backend.ids == []


async def test_settings_that_cannot_be_keep_the_engine_from_starting(virtual_time, repository, opened):
    """Goal: by name, in the protocol's words where it has some."""
    write_model(repository, "m", more=CACHED)
    for config, text in (
        ({"local": {}}, "Failed to initialize LocalCache: config didn't contain a valid 'size' field."),
        ({"local": {"size": "many"}}, "'size' must be a number of bytes, at least 1, got 'many'"),
        ({"local": {"size": "0"}}, "'size' must be a number of bytes, at least 1, got '0'"),
        ({"local": {"size": "1", "sizes": "2"}}, "unknown setting 'sizes'"),
        (
            {"nowhere": {}},
            "unable to find cache 'nowhere': there is no package that has it, and no /opt/tritonserver/caches/nowhere/",
        ),
        ({"redis": {"host": "x"}}, "Failed to initialize RedisCache: config didn't contain a valid 'port' field."),
    ):
        with pytest.raises(InvalidArgument) as caught:
            async with opened(cache_config=config):
                pytest.fail("it started")
        assert text in caught.value.message
    with pytest.raises(ValueError, match="found multiple cache configurations, but only a single cache is currently"):
        async with opened(cache_config={"local": {"size": "1"}, "redis": {}}):
            pytest.fail("it started")


async def test_large_inputs_are_looked_up_by_a_thread(repository, opened, backend):
    """Goal: making the key of megabytes holds nobody up."""
    threads = set()
    write_model(repository, "m", max_batch_size=0, tensors=LARGE, more=CACHED)
    array = np.arange(1_000_000, dtype=np.int32)
    async with opened(cache_config={"local": {"size": "100000000"}}) as engine:
        keys = engine.model("m")._calls._keys()
        made = keys.of

        def noted(request):
            threads.add(threading.get_ident())
            return made(request)

        keys.of = noted
        for _ in range(2):
            result = await engine.infer("m", {"IN": array})
            assert np.array_equal(result["OUT"], array)
        assert counts(engine).hits == 1
    assert threading.get_ident() not in threads


LARGE = (
    'input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]\n'
    'output [{ name: "OUT" data_type: TYPE_INT32 dims: [-1] }]\n'
)


# --- Ensembles

STEP = """step [{
  model_name: "%s" model_version: -1 input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "OUT" }
}]"""


def write_ensemble(repository, name="e", of="m", more=CACHED):
    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(
        f'platform: "ensemble" max_batch_size: 8 {SCALAR_IO} ensemble_scheduling {{ {STEP % of} }} {more}'
    )


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
async def test_a_hit_of_an_ensemble_spares_its_steps(virtual_time, repository, cached, backend, kind):
    """Goal: ensembles' answers are kept as a whole, beside those of their models."""
    write_model(repository, "plain")
    write_ensemble(repository, of="plain")
    async with cached(kind) as engine:
        for id in "ab":
            response = await engine.infer_request(request("e", value=7, id=id))
            assert (value_of(response), response.id, response.model_name) == (7, id, "e")
            await settle()
        assert counts(engine, "e") == Counts(success=2, fail=0, hits=1, misses=1, computed=1, executions=1)
        assert counts(engine, "plain").success == 1
    assert len(backend.ids) == 1


async def test_a_step_may_be_answered_from_the_cache(virtual_time, repository, cached, backend):
    """Goal: an ensemble that keeps nothing itself is served by a model that does."""
    write_ensemble(repository, more="")
    async with cached() as engine:
        for id in "ab":
            assert value_of(await engine.infer_request(request("e", value=7, id=id))) == 7
        assert counts(engine) == Counts(success=2, fail=0, hits=1, misses=1, computed=1, executions=1)
        assert counts(engine, "e").executions == 2
    assert len(backend.ids) == 1


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
async def test_an_ensemble_forgets_when_one_of_its_models_changes(virtual_time, repository, cached, backend, kind):
    """Goal: what is kept of an ensemble holds for the models that made it, also for one inside of another."""
    path = write_model(repository, "plain")
    write_ensemble(repository, "inner", of="plain", more="")
    write_ensemble(repository, of="inner")
    async with cached(kind, model_control_mode="explicit", load_model=["e"]) as engine:
        await engine.infer_request(request("e", value=7))
        await settle()
        write_model(repository, "plain", more="metric_tags { key: 'x' value: 'y' }")
        touch(path / "config.pbtxt", 5)
        await engine.load("plain")
        for _ in range(2):
            await engine.infer_request(request("e", value=7))
            await settle()
    assert len(backend.ids) == 2


async def test_a_caller_of_an_ensemble_may_leave_others_that_wait(virtual_time, repository, cached, backend):
    """Goal: joining, leaving and deadlines are an ensemble's as they are a model's."""
    write_model(repository, "plain")
    write_ensemble(repository, of="plain")
    backend.execute = gate = Gate()
    seen = {}
    async with cached(cache_joins=True) as engine, trio.open_nursery() as nursery:

        async def one(id, **options):
            try:
                await engine.infer_request(request("e", value=7, id=id), **options)
                seen[id] = "answered"
            except Fault as fault:
                seen[id] = type(fault).__name__

        nursery.start_soon(lambda: one("first", deadline=trio.current_time() + 1))
        await settle()
        nursery.start_soon(one, "second")
        await trio.sleep(1.5)
        assert seen == {"first": "DeadlineExceeded"}
        gate.release()
        await settle()
        assert seen["second"] == "answered"
        assert engine.model("e").ledger.inflight == 0
    assert len(gate.held) == 0


# --- Memory of clients, order, traces


@pytest.mark.parametrize("kind", ["local", "elsewhere"])
async def test_tensors_in_shared_memory(virtual_time, cached, backend, client, kind):
    """Goal: what is read of a region is looked up, and hits are written to where the client wants them, executed or
    not; regions are let go of."""
    async with cached(kind) as engine:
        client.register(engine)
        for turn, (value, executions) in enumerate(((7, 1), (7, 1), (8, 2))):
            client.put(value)
            client.put(0, at=1024)
            response = await engine.infer_request(shared_request(engine, id=str(turn)))
            await settle()
            assert (response.id, bytes_of(response), client.got()) == (str(turn), [b""], value)
            assert len(backend.executed) == executions
        assert value_of(await engine.infer_request(request(value=7))) == 7
        assert len(backend.executed) == 2
        client.unregister(engine)
        assert engine.model("m").ledger.inflight == 0


async def test_a_hit_that_does_not_fit_into_its_region_fails(virtual_time, cached, client):
    """Goal: in the words of an execution's answer, counted as one."""
    async with cached() as engine:
        client.register(engine)
        client.put(7)
        texts = []
        for output in (2, 4, 2):
            try:
                await engine.infer_request(shared_request(engine, output=output))
                texts.append("")
            except Fault as fault:
                texts.append(fault.message)
        assert texts[0] == texts[2] != texts[1] == ""
        assert counts(engine).fail == 1  # the first was executed without fault, and kept


async def test_a_hit_does_not_overtake_what_executes(virtual_time, repository, cached, backend):
    """Goal: `preserve_ordering` holds for hits, too, and one that waits for its turn may leave."""
    write_model(repository, "m", more=CACHED + " dynamic_batching { preserve_ordering: true }")
    told = []

    def done(job):
        told.append(job.request.id)

    async with cached() as engine:
        await engine.infer_request(request(value=7))
        backend.execute = gate = Gate()
        model = engine.model("m")
        model.submit(request(value=8, id="executes"), done)
        await settle()
        model.submit(request(value=7, id="hit"), done)
        model.submit(request(value=7, id="leaves"), done).cancel()
        assert told == []
        gate.release()
        await settle()
        assert told == ["executes", "hit"]


async def test_a_hit_is_traced_without_an_execution(virtual_time, cached, tmp_path):
    """Goal: a trace says when a hit came and went, and names nothing that did not happen."""
    settings = TraceSettings(level=("TIMESTAMPS",), rate=1, file=str(tmp_path / "trace.json"))
    async with cached(trace=settings) as engine:
        for id in "ab":
            await engine.infer_request(request(value=7, id=id))
    stamps = {}
    for trace in json.loads((tmp_path / "trace.json").read_text()):
        names = stamps.setdefault(trace["id"], [])
        names += [stamp["name"] for stamp in trace.get("timestamps", ())]
    executed, hit = stamps.values()
    assert {"REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_END", "REQUEST_END"} <= {*executed}
    assert hit == ["REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END"]
