"""Our own families: what each model has to do now, where it is executed, and who got no answer in time."""

import re
from functools import partial

import despina
import pytest
import trio
import trio.testing
from despina.engine.engine import PROTOCOL_VERSION
from despina.frontends.metrics.collector import EngineCollector
from despina.frontends.metrics.exposition import text_of
from despina.schema.fault import ExecutorDied, Fault
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import FakeBackend, Gate, chain, request, write_ensemble, write_model


def series(engine, family):
    """What the page says of a family: the labels' values -> the number, but for zeros."""
    text = text_of(EngineCollector(engine.versions()).collect()).decode()
    found = {}
    for each in text_string_to_metric_families(text):
        for sample in each.samples:
            if sample.name.removesuffix("_total") == family and sample.value:
                labels = {key: value for key, value in sample.labels.items() if key != "version"}
                found[" ".join(labels.values())] = sample.value
    return found


def unserved(engine):
    return {key.removesuffix(" m").removeprefix("m "): value for key, value in series(engine, UNSERVED).items()}


UNSERVED = "despina_unserved_request_count"


async def ask(engine, patience_s=None, *, batching=False, **options):
    with trio.move_on_after(float("inf") if patience_s is None else patience_s):
        try:
            await engine.infer_request(request(batching=batching), **options)
        except Fault:
            return


async def test_what_a_model_has_to_do(virtual_time, repository, backend, opened):
    """Goal: in flight, the queue's bound, the age of who is next, instances that serve."""
    write_model(repository, "m", instances=2, max_batch_size=0)
    backend.execute = gate = Gate()
    async with opened(queue_size_max=7) as engine, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask, engine)
        await trio.testing.wait_all_tasks_blocked()
        assert series(engine, "despina_inflight_request_count") == {"m": 4}
        assert series(engine, "nv_inference_pending_request_count") == {"m": 2}
        assert series(engine, "despina_queue_max") == {"m": 7}
        assert series(engine, "despina_queue_oldest_seconds")["m"] > 0
        assert series(engine, "despina_instance_count") == {"m serving": 2}
        nursery.cancel_scope.cancel()
        gate.release()
        gate.release()


async def test_instances_that_are_down(virtual_time, repository, backend, opened):
    """Goal: one that died counts as down until it is opened anew."""
    write_model(repository, "m", max_batch_size=0)

    def die(_):
        raise ExecutorDied("it is gone")

    backend.execute = die
    async with opened() as engine:
        await ask(engine)
        await trio.testing.wait_all_tasks_blocked()
        assert series(engine, "despina_instance_count") == {"m down": 1}
        await trio.sleep(60)
        assert series(engine, "despina_instance_count") == {"m serving": 1}


async def test_who_gets_no_answer_in_time(virtual_time, repository, backend, opened):
    """Goal: each way to get none counts under its own name, once."""
    policy = "default_timeout_microseconds: 9000000 max_queue_size: 3"
    write_model(repository, "m", more=f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}", max_batch_size=1)
    backend.execute = gate = Gate()
    async with opened() as engine, trio.open_nursery() as nursery:
        now = trio.current_time()
        one = partial(ask, engine, batching=True)
        nursery.start_soon(one, 1.0)  # leaves while executing
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(one, 2.0)  # leaves the queue
        nursery.start_soon(partial(one, deadline=now + 3.0))  # its deadline passes in the queue
        nursery.start_soon(one)  # waits too long
        await trio.testing.wait_all_tasks_blocked()
        await one()  # finds no place
        await trio.sleep(10)
        assert unserved(engine) == {
            "left_executing": 1,
            "left_queued": 1,
            "deadline_queued": 1,
            "queue_timeout": 1,
            "queue_full": 1,
        }
        gate.release()


async def test_deadlines_while_executing_and_given_up(virtual_time, repository, backend, opened):
    """Goal: told while it executes, and not begun since it could not be in time."""
    write_model(repository, "m", max_batch_size=0)
    backend.cost_s = 1.0
    async with opened() as engine, trio.open_nursery() as nursery:
        for _ in range(8):  # what an execution costs becomes known
            await ask(engine)
        now = trio.current_time()
        nursery.start_soon(ask, engine)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(partial(ask, engine, deadline=now + 1.1))
        await trio.sleep(3)
        assert unserved(engine) == {"given_up": 1}
        await ask(engine, deadline=trio.current_time() + 0.5)
        backend.cost_s = 5.0
        await ask(engine, deadline=trio.current_time() + 2)
        assert unserved(engine)["deadline_executing"] == 1


@pytest.mark.parametrize(("place", "shown"), [("inline", "m inline"), ("thread", "m elsewhere")])
async def test_places(repository, place, shown):
    """Goal: executions on the event loop's thread and elsewhere are told apart, with threads of the real kind."""
    parameter = f'parameters {{ key: "DESPINA_EXECUTOR" value {{ string_value: "{place}" }} }}'
    write_model(repository, "m", max_batch_size=0, more=parameter)
    fake = FakeBackend(asynchronous=False, movable=True)
    async with despina.open_engine(repository, backends={"fake": fake}) as engine:
        asked = 0
        with trio.fail_after(20):
            while shown not in (counts := series(engine, "despina_execution_count")):
                await ask(engine)
                asked += 1
                await trio.sleep(0.01)  # its thread takes what comes before it has gone to rest
    assert sum(counts.values()) == asked
    assert place == "inline" or set(counts) == {shown}


async def test_ensembles(virtual_time, repository, backend, opened):
    """Goal: they have no instances, and what waits waits in their models."""
    write_model(repository, "m", max_batch_size=0)
    write_ensemble(repository, "e", steps=chain("m"))
    async with opened() as engine:
        assert series(engine, "despina_instance_count") == {"m serving": 1}
        assert set(series(engine, "despina_queue_max")) == {"e", "m"}


async def test_counts_go_on_over_a_reload(virtual_time, repository, backend, opened):
    """Goal: what an earlier load has counted is part of the series."""
    write_model(repository, "m", more="dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
    async with opened() as engine:
        model = engine.model("m")
        model.statistics.unserved["given_up"] = 3
        model.statistics.inline_count = 1
        model.carried.add(model.statistics)
        model.carried.add(model.statistics)
        assert unserved(engine) == {"given_up": 9}
        assert series(engine, "despina_execution_count") == {"m inline": 3}


def test_which_release():
    """Goal: one series that is 1, with our release and the protocol's."""
    text = text_of(EngineCollector().collect()).decode()
    line = re.search(r"^despina_build_info\{(.*)\} 1$", text, re.MULTILINE)[1]
    assert f'version="{despina.__version__}"' in line
    assert f'protocol="{PROTOCOL_VERSION}"' in line


async def test_metadata_names_our_release(repository, opened):
    """Goal: clients that ask for extensions see which server this is."""
    async with opened() as engine:
        assert engine.metadata().extensions[-1] == f"despina({despina.__version__})"
        assert engine.metadata().version == PROTOCOL_VERSION


@pytest.mark.parametrize("option", ["--version"])
def test_version_of_the_command(option, capsys):
    from despina.frontends.cli.main import run

    assert run([option]) == 0
    assert despina.__version__ in capsys.readouterr().out
