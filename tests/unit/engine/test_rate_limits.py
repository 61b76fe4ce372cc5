"""Instances that share resources, through whole engines: on virtual time, and on real threads."""

import threading
import time
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from despina.engine.execute.limited import WAITS, SharedResources
from despina.engine.port.backend import InstanceContext
from despina.engine.port.resources import Resource, ResourceLimit
from despina.engine.port.settings import Restart
from despina.schema.fault import DeadlineExceeded, ExecutorDied, InvalidArgument

from tests.fakes import SCALAR_IO, Gate, answer, request, touch, value_of, write_model

LIMITED = {"rate_limit": "execution_count"}
EXPLICIT = {"model_control_mode": "explicit", **LIMITED}


def needing(*resources, priority=0, count=1, name="", kind="KIND_CPU"):
    """An instance group that needs (name, count) of the server's resources."""
    wanted = "".join(f'resources {{ name: "{resource}" global: true count: {many} }}' for resource, many in resources)
    named = f'name: "{name}"' if name else ""
    return (
        f"instance_group [{{ {named} count: {count} kind: {kind} rate_limiter {{ {wanted} priority: {priority} }} }}]"
    )


def limited_model(repository, name, *groups, max_batch_size=0, more=""):
    return write_model(
        repository,
        name,
        config=f'backend: "fake"\nmax_batch_size: {max_batch_size}\n{SCALAR_IO}{"".join(groups)}{more}\n',
    )


async def send(nursery, engine, model, id, **options):
    async def call():
        await engine.infer_request(request(model, id=id, batching=False), **options)

    nursery.start_soon(call)
    await trio.testing.wait_all_tasks_blocked()


def order(backend):
    return [id for (id,) in backend.ids]


async def settled(gate, count):
    """Lets held batches go, oldest first, until so many have been."""
    for _ in range(count):
        await trio.testing.wait_all_tasks_blocked()
        gate.release()


async def test_two_models_of_one_resource_never_overlap(virtual_time, repository, backend, opened):
    """Goal: one executes at a time, who waits longest first; without rate limiting both do."""
    for name in ("a", "b"):
        limited_model(repository, name, needing(("R", 1)))
    for options, held in ((LIMITED, 1), ({}, 2)):
        backend.execute = gate = Gate()
        backend.executed.clear()
        async with opened(**options) as engine, trio.open_nursery() as nursery:
            for name in ("a", "b", "a", "b"):
                await send(nursery, engine, name, name)
            assert len(gate.held) == held
            await settled(gate, 4)
        assert order(backend) == ["a", "b", "a", "b"]


async def test_priorities(virtual_time, repository, backend, opened):
    """Goal: with priority 2 a model gets half the chances of one with priority 1, as long as both wait."""
    limited_model(repository, "one", needing(("R", 1), priority=1))
    limited_model(repository, "two", needing(("R", 1), priority=2))
    backend.execute = gate = Gate()
    async with opened(**LIMITED) as engine, trio.open_nursery() as nursery:
        for _ in range(6):
            await send(nursery, engine, "one", "one")
            await send(nursery, engine, "two", "two")
        await settled(gate, 12)
    assert order(backend) == ["one", "one", "two"] * 3 + ["two"] * 3


async def test_who_needs_much_is_not_overtaken_by_who_needs_little(virtual_time, repository, backend, opened):
    """Goal: behind the one that waits for both, one that needs one of them waits; strangers to it go on."""
    limited_model(repository, "small", needing(("R", 1)))
    limited_model(repository, "large", needing(("R", 2)))
    limited_model(repository, "late", needing(("R", 1)))
    limited_model(repository, "other", needing(("S", 1)))
    limited_model(repository, "frugal")
    backend.execute = gate = Gate()
    async with opened(**LIMITED) as engine, trio.open_nursery() as nursery:
        for name in ("small", "large", "late", "other", "frugal"):
            await send(nursery, engine, name, name)
        assert order(backend) == ["small", "other", "frugal"]
        limiter = next(status for status in engine.status() if status.name == "rate limiter")
        assert limiter.doing == "3 instances have their turn, with 1 of 2 R, 1 of 1 S"
        assert (limiter.depth, limiter.bound) == (2, 5)
        await settled(gate, 5)
    assert order(backend) == ["small", "other", "frugal", "large", "late"]


async def test_the_instance_that_has_executed_least_is_next(virtual_time, repository, backend, opened):
    """Goal: idle instances take turns, by executions and priority."""
    limited_model(repository, "m", needing(name="x", priority=1), needing(name="y", priority=2))
    async with opened(**LIMITED) as engine:
        for _ in range(20):
            await engine.infer_request(request("m", batching=False))
    executed = [one.instance for one in backend.executed]
    assert executed[4:16] == ["x_0", "x_0", "y_0"] * 4


async def test_who_dies_gives_back(virtual_time, repository, backend, opened):
    """Goal: another model goes on while an instance is down, and while it opens anew; and the other way round."""
    for name in ("a", "b"):
        limited_model(repository, name, needing(("R", 1)))

    async def execute(batch):
        await trio.sleep(0.1)
        if batch.jobs[0].request.id == "dies":
            raise ExecutorDied("killed")
        answer(batch)

    backend.execute = execute
    async with opened(restart=Restart(backoff_min_s=5, jitter=0), **LIMITED) as engine, trio.open_nursery() as nursery:
        await send(nursery, engine, "b", "first")

        async def dies():
            with pytest.raises(ExecutorDied):
                await engine.infer_request(request("a", id="dies", batching=False))

        nursery.start_soon(dies)
        await trio.testing.wait_all_tasks_blocked()
        await send(nursery, engine, "b", "second")
        await send(nursery, engine, "a", "third")
    assert order(backend) == ["first", "dies", "second", "third"]
    assert [round(one.at - backend.executed[0].at, 3) for one in backend.executed] == [0, 0.1, 0.2, 5.2]


async def test_who_is_unloaded_gives_back(virtual_time, repository, backend, opened):
    """Goal: an unloaded model finishes what waits, in its turn; then what it held is others'."""
    for name, needed in (("a", 1), ("b", 1), ("large", 2)):
        limited_model(repository, name, needing(("R", needed)))
    backend.execute = gate = Gate()
    async with opened(load_model=["a", "b", "large"], **EXPLICIT) as engine:
        limiter = engine._repository.resources._limiter
        async with trio.open_nursery() as nursery:
            await send(nursery, engine, "a", "a")
            await send(nursery, engine, "large", "l")
            await send(nursery, engine, "b", "b")
            for name in ("large", "a"):
                await engine.unload(name)
            assert order(backend) == ["a"]
            await settled(gate, 3)
        assert order(backend) == ["a", "l", "b"]
        await trio.testing.wait_all_tasks_blocked()
        assert limiter.budgets == {("R", None): 1}
        await engine.unload("b")
        await trio.testing.wait_all_tasks_blocked()
        assert (limiter.claims, limiter.budgets) == (set(), {})
        assert not any(limiter.taken.values())


async def test_too_much_fails_the_load(virtual_time, repository, backend, opened):
    """Goal: the reference server's words; nothing stays of the model, and others are as before."""
    limited_model(repository, "fits", needing(("R", 2)))
    limited_model(repository, "large", needing(("R", 3), count=2))
    async with opened(rate_limit_resource=[ResourceLimit(name="R", count=2)], load_model="fits", **EXPLICIT) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("large")
        assert caught.value.message == (
            "load failed for model 'large': version 1 is at UNAVAILABLE state: Invalid argument: Resource count for "
            '"R" is limited to 2 which will prevent scheduling of one or more model instances, the minimum required '
            "count is 3;\n"
        )
        assert not engine.is_model_ready("large")
        assert len(engine._repository.resources._limiter.claims) == 1
        assert value_of(await engine.infer_request(request("fits", 5, batching=False))) == 5
    assert backend.instances_open == 0


async def test_too_much_does_not_fail_where_rates_are_not_limited(virtual_time, repository, backend, opened):
    limited_model(repository, "large", needing(("R", 3)))
    async with opened(rate_limit_resource=[ResourceLimit(name="R", count=2)]) as engine:
        assert value_of(await engine.infer_request(request("large", 5, batching=False))) == 5


async def test_instances_change_with_their_needs(virtual_time, repository, backend, opened):
    """Goal: a model whose group needs something else from now on gets new instances, or keeps those it has."""
    path = limited_model(repository, "m", needing(("R", 1)))
    async with opened(rate_limit_resource=[ResourceLimit(name="R", count=2)], load_model="m", **EXPLICIT) as engine:
        for seconds, needed in ((2, 3), (4, 2)):
            limited_model(repository, "m", needing(("R", needed)))
            touch(path / "config.pbtxt", seconds)
            if needed == 3:
                with pytest.raises(InvalidArgument, match='Resource count for "R" is limited to 2'):
                    await engine.load("m")
            else:
                await engine.load("m")
            (claim,) = engine._repository.resources._limiter.claims
            assert claim.needs == {("R", None): 1 if needed == 3 else 2}
            assert value_of(await engine.infer_request(request("m", 5, batching=False))) == 5
    assert backend.opened == [("m", 1)], "without a reload"


async def test_who_leaves_is_not_in_others_way(virtual_time, repository, backend, opened):
    """Goal: once nobody waits for the model that needs much any more, it does not keep others from the rest."""
    limited_model(repository, "small", needing(("R", 1), count=2))
    limited_model(repository, "large", needing(("R", 2)))
    backend.execute = gate = Gate()
    async with opened(**LIMITED) as engine, trio.open_nursery() as nursery:
        await send(nursery, engine, "small", "s1")
        scope = trio.CancelScope()
        nursery.start_soon(leaves, engine, scope)
        await trio.testing.wait_all_tasks_blocked()
        await send(nursery, engine, "small", "s2")
        await send(nursery, engine, "small", "s3")
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert len(gate.held) == 2
        await settled(gate, 2)
        await trio.testing.wait_all_tasks_blocked()
        await send(nursery, engine, "large", "l")
        await settled(gate, 1)
    assert order(backend) == ["s1", "s2", "s3", "l"]


async def leaves(engine, scope):
    with scope:
        await engine.infer_request(request("large", id="left", batching=False))


async def test_waiting_is_queueing(virtual_time, repository, backend, opened):
    """Goal: who waits for a turn waits in the queue: joins a batch, times out there, and is counted there."""
    limited_model(repository, "a", needing(("R", 1)))
    limited_model(repository, "b", needing(("R", 1)), max_batch_size=8, more="dynamic_batching {}")
    backend.execute = gate = Gate()
    async with opened(**LIMITED) as engine, trio.open_nursery() as nursery:
        await send(nursery, engine, "a", "a")
        for id in ("b1", "b2", "b3"):
            nursery.start_soon(engine.infer_request, request("b", id=id))
            await trio.testing.wait_all_tasks_blocked()

        async def late():
            with pytest.raises(DeadlineExceeded):
                await engine.infer_request(request("b", id="late"), deadline=trio.current_time() + 1)

        nursery.start_soon(late)
        await trio.sleep(2)
        assert engine.model("b").pending == 3
        await settled(gate, 2)
    assert backend.ids == [["a"], ["b1", "b2", "b3"]]


@pytest.mark.parametrize("how", ["task", "prompt", "thread", "movable"])
async def test_threads_share_too(repository, backend, opened, how):
    """Goal: four models on threads, tasks or inline, two resources: never more than there is, and all are answered."""
    backend.asynchronous = how in ("task", "prompt")
    backend.prompt = how == "prompt"
    backend.movable = how == "movable"
    now, most, lock = {}, {}, threading.Lock()
    uses = {"a": ("R",), "b": ("R",), "c": ("S",), "d": ("R", "S")}

    def begin(model):
        with lock:
            for resource in uses[model]:
                now[resource] = now.get(resource, 0) + 1
                most[resource] = max(most.get(resource, 0), now[resource])

    def end(model):
        with lock:
            for resource in uses[model]:
                now[resource] -= 1

    def execute(batch):
        model = batch.jobs[0].request.model_name
        begin(model)
        time.sleep(0.0005)
        end(model)
        answer(batch)

    async def execute_async(batch):
        model = batch.jobs[0].request.model_name
        begin(model)
        await trio.sleep(0.0005)
        end(model)
        answer(batch)

    backend.execute, backend.execute_sync = execute_async, execute
    for name, resources in uses.items():
        wanted = [(resource, 1) for resource in resources]
        limited_model(repository, name, needing(*wanted, count=2), max_batch_size=4, more="dynamic_batching {}")
    limits = [ResourceLimit(name="R", count=2), ResourceLimit(name="S", count=1)]
    async with opened(rate_limit_resource=limits, **LIMITED) as engine:
        answered = []

        async def calls(name, count):
            for value in range(count):
                response = await engine.infer_request(request(name, value))
                answered.append(value_of(response) == value)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for name in uses:
                    for _ in range(6):
                        nursery.start_soon(calls, name, 25)
        limiter = engine._repository.resources._limiter
        await trio.sleep(0.05)
        assert not limiter.waiting
        assert not any(limiter.taken.values()), "all is given back"
    assert answered == [True] * 4 * 6 * 25
    assert most == {"R": 2, "S": 1}


async def test_sequences_wait_for_turns(virtual_time, repository, backend, opened):
    """Goal: models of sequences take turns, too, and hold nothing when no request is there."""
    controls = 'control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] }]'
    limited_model(
        repository,
        "seq",
        needing(("R", 1)),
        max_batch_size=2,
        more=f"sequence_batching {{ max_sequence_idle_microseconds: 1000000 {controls} }}",
    )
    limited_model(repository, "plain", needing(("R", 1)))
    backend.execute = gate = Gate()
    async with opened(**LIMITED) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.infer_request, request("seq", id="s1", correlation_id=1, sequence_start=True))
        await trio.testing.wait_all_tasks_blocked()
        await send(nursery, engine, "plain", "p")
        assert len(gate.held) == 1
        await settled(gate, 2)
        nursery.start_soon(engine.infer_request, request("seq", id="s2", correlation_id=1, sequence_end=True))
        await settled(gate, 1)
    assert order(backend) == ["s1", "p", "s2"]


async def test_who_need_not_wait_does_not(virtual_time, repository, backend, opened):
    """Goal: while one of a model's instances waits for its turn, another one that needs something else executes."""
    limited_model(repository, "holds", needing(("R", 1)))
    limited_model(repository, "m", needing(("R", 1), name="x", priority=1), needing(("S", 1), name="y", priority=9))
    backend.execute = gate = Gate()
    async with opened(**LIMITED) as engine, trio.open_nursery() as nursery:
        await send(nursery, engine, "holds", "h")
        await send(nursery, engine, "m", "m")
        assert [one.instance for one in backend.executed] == ["holds_0_0", "y_0"]
        await settled(gate, 2)
        await trio.testing.wait_all_tasks_blocked()
        await send(nursery, engine, "m", "again")
        await settled(gate, 1)
    assert [one.instance for one in backend.executed] == ["holds_0_0", "y_0", "x_0"]


def test_an_instance_that_gets_its_turn_at_once_is_not_started_besides():
    """Goal: one that asks, and has its turn because another one's callers have left, is told so and not called, too:
    started twice it would be idle twice."""
    called = []
    resources = SharedResources([ResourceLimit(name="R", count=2)])

    def seat(name, count, live):
        context = InstanceContext(
            name=name, kind="CPU", device_id=0, resources=(Resource(name="R", count=count, is_global=True),)
        )
        return resources.enter(context, None, SimpleNamespace(live=live), called.append)

    holds, in_the_way, asks = seat("holds", 1, 1), seat("in the way", 2, 0), seat("asks", 1, 1)
    assert resources.want(holds) > 0
    in_the_way.scheduler.live = 1
    assert resources.want(in_the_way) == WAITS
    in_the_way.scheduler.live = 0
    assert resources.want(asks) > 0
    assert called == [in_the_way]
