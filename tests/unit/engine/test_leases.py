"""Models that load on request, and give way to each other under a budget, on virtual time."""

import pytest
import trio
from despina.engine.repository.on_request import AGAIN_S, LOADS_MAX
from despina.engine.repository.registry import EVICTED, UNLOADED
from despina.schema.fault import (
    DeadlineExceeded,
    Fault,
    InvalidArgument,
    NotFound,
    NotLoaded,
    QueueFull,
    ShuttingDown,
    Unavailable,
)

from tests.fakes import Gate, answer, chain, request, tensor_text, value_of, write_ensemble, write_model

ON_REQUEST = {"model_control_mode": "explicit", "load_on_request": True}


async def ask(engine, model, value=1, **options):
    return value_of(await engine.infer_request(request(model, value), **options))


async def states(engine):
    return {line.name: (line.state, line.reason) for line in await engine.index()}


@pytest.fixture
def models(repository):
    for name in "abcd":
        write_model(repository, name)
    return repository


def opened_names(backend):
    return [name for name, _ in backend.opened]


async def test_the_first_request_loads(virtual_time, models, backend, opened):
    """Goal: nothing is loaded before; who asks is answered, and is the only one to notice; names that there are not are
    not found in the same words as ever, and leave nothing behind."""
    async with opened(**ON_REQUEST) as engine:
        assert await states(engine) == dict.fromkeys("abcd", ("", ""))
        assert not engine.is_model_ready("a")
        assert await ask(engine, "a", 7) == 7
        assert backend.opened == [("a", 1)]
        assert engine.is_model_ready("a")
        with pytest.raises(NotFound, match=r"^Request for unknown model: 'x' is not found$"):
            await ask(engine, "x")
        with pytest.raises(NotFound, match=r"version 9 is not found$"):
            await engine.infer_request(request("a", model_version=9))
        assert set(engine.registry.models) == {"a"}
        assert engine.is_ready()


async def test_off_by_default(virtual_time, models, backend, opened):
    """Goal: a model that is not loaded is not found, and not by the way that doors would wait on."""
    async with opened(model_control_mode="explicit") as engine:
        with pytest.raises(NotFound) as raised:
            await ask(engine, "a")
        assert not isinstance(raised.value, NotLoaded)


async def test_who_asks_meanwhile_shares_the_load(virtual_time, models, backend, opened, monkeypatch):
    """Goal: a hundred first requests open it once, and are all answered; one that leaves stops nothing."""
    answers = []
    async with opened(**ON_REQUEST) as engine, trio.open_nursery() as nursery:

        async def one(value):
            with trio.move_on_after(0 if value == 50 else float("inf")):
                answers.append(await ask(engine, "a", value))

        for value in range(100):
            nursery.start_soon(one, value)
    assert sorted(answers) == [value for value in range(100) if value != 50]
    assert backend.opened == [("a", 1)]


async def test_a_load_that_fails_answers_all_with_its_fault(virtual_time, models, backend, opened):
    """Goal: all at once; whoever asks soon after hears the same at once, and the model is not executed again for that;
    after a while it is tried again. Nobody else misses it: the server stays ready."""
    backend.open_errors["a", 1] = InvalidArgument("it is broken")
    faults = []
    async with opened(**ON_REQUEST) as engine:

        async def one():
            try:
                await ask(engine, "a")
            except Fault as fault:
                faults.append(fault)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        await one()
        text = "load failed for model 'a': version 1 is at UNAVAILABLE state: Invalid argument: it is broken;\n"
        assert [fault.message for fault in faults] == [text] * 11
        assert len({id(fault) for fault in faults}) == 11
        assert len(backend.contexts) == 1
        assert (await states(engine))["a"] == ("UNAVAILABLE", "Invalid argument: it is broken")
        assert engine.is_ready()
        del backend.open_errors["a", 1]
        await trio.sleep(AGAIN_S)
        assert await ask(engine, "a") == 1


async def test_waiting_is_bounded(virtual_time, models, backend, opened, monkeypatch):
    """Goal: by the caller's deadline, else by the setting; each hears its own; the load goes on and serves the next."""
    begun = trio.Event()

    async with opened(**ON_REQUEST, load_wait_secs=3) as engine:
        load = engine._repository._closure.load

        async def slow(*args, **options):
            begun.set()
            await trio.sleep(5)
            await load(*args, **options)

        engine._repository._closure.load = slow
        heard = {}

        async def one(key, deadline):
            try:
                heard[key] = await ask(engine, "a", deadline=deadline)
            except Fault as fault:
                heard[key] = (type(fault), trio.current_time() - began)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "none", 0.0)
            nursery.start_soon(one, "late", began + 10)
            await begun.wait()
            nursery.start_soon(one, "soon", began + 1)
            nursery.start_soon(one, "now", began - 1)
        assert heard["soon"] == (DeadlineExceeded, pytest.approx(1))
        assert heard["now"] == (DeadlineExceeded, pytest.approx(0))
        assert heard["none"] == heard["late"] == (Unavailable, pytest.approx(3))
        assert await ask(engine, "a") == 1
        assert len(backend.opened) == 1


async def test_too_many_at_once(virtual_time, repository, backend, opened):
    """Goal: loads, and those who wait for one, are bounded; the rest is refused at once."""
    for index in range(LOADS_MAX + 1):
        write_model(repository, f"m{index}")
    async with opened(**ON_REQUEST, queue_size_max=2) as engine:
        told = []
        waits = [engine.when_loaded(f"m{index}", told.append) for index in range(LOADS_MAX)]
        with pytest.raises(QueueFull, match=f"'m{LOADS_MAX}' is not loaded, and {LOADS_MAX} others are being loaded"):
            engine.when_loaded(f"m{LOADS_MAX}", told.append)
        engine.when_loaded("m0", told.append)
        with pytest.raises(QueueFull, match="2 requests wait already for model 'm0'"):
            engine.when_loaded("m0", told.append)
        waits[1].cancel()
        waits[1].cancel()
        await trio.sleep(1)
        assert told == [None] * LOADS_MAX


async def test_the_engine_stops_while_somebody_waits(virtual_time, models, backend, opened):
    """Goal: they hear so; nobody hangs, nothing is left."""
    async with opened(**ON_REQUEST, load_wait_secs=100) as engine:
        told = []

        async def hang(*_, **__):
            await trio.sleep_forever()

        engine._repository._closure.load = hang
        engine.when_loaded("a", told.append)
        await trio.sleep(1)
    assert [type(fault) for fault in told] == [ShuttingDown]


async def test_what_was_unloaded_by_command_stays_out(virtual_time, models, backend, opened):
    """Goal: an operator's word holds until he says another."""
    async with opened(**ON_REQUEST) as engine:
        assert await ask(engine, "a") == 1
        await engine.unload("a")
        with pytest.raises(NotFound, match="has no available versions"):
            await ask(engine, "a")
        await trio.sleep(1)
        assert (await states(engine))["a"] == ("UNAVAILABLE", UNLOADED)
        await engine.load("a")
        assert await ask(engine, "a") == 1


async def test_the_least_lately_used_gives_way(virtual_time, models, backend, opened):
    """Goal: two of four at a time; the evicted is closed before the new one opens, says so in the index, counts as no
    problem, and comes back when asked for, with its counts begun anew."""
    async with opened(**ON_REQUEST, loaded_models_max=2) as engine:
        await ask(engine, "a")
        await ask(engine, "b")
        await ask(engine, "a")
        await ask(engine, "c")
        assert backend.closed == [("b", 1)]
        assert (await states(engine))["b"] == ("UNAVAILABLE", EVICTED)
        assert not engine.is_model_ready("b")
        assert engine.is_ready()
        assert [line.name for line in engine.statistics()] == ["a", "c"]
        await ask(engine, "b")
        assert backend.closed == [("b", 1), ("a", 1)]
        assert engine.statistics("b")[0].inference_count == 1
        leases = next(status for status in engine.status() if status.name == "leases")
        assert (leases.depth, leases.bound, leases.facts) == (2, 2, {"evicted": 2})


async def test_what_is_in_use_does_not_give_way(virtual_time, models, backend, opened):
    """Goal: who is executed or queued is answered by the model he came to; who needs the room waits until then, and no
    longer than the setting says."""
    gate = backend.execute = Gate()
    heard = {}

    async with opened(**ON_REQUEST, loaded_models_max=1, load_wait_secs=2) as engine:

        async def one(key, model):
            began = trio.current_time()
            try:
                heard[key] = await ask(engine, model)
            except Fault as fault:
                heard[key] = fault
            heard[f"{key} after"] = trio.current_time() - began

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a", "a")
            await trio.sleep(0.5)
            nursery.start_soon(one, "b", "b")
            await trio.sleep(3)
            assert isinstance(heard["b"], Unavailable)
            assert heard["b after"] == pytest.approx(2)
            await trio.sleep(AGAIN_S)
            nursery.start_soon(one, "b again", "b")
            await trio.sleep(1)
            assert backend.closed == []
            backend.execute = backend._echo
            gate.release()
        assert (heard["a"], heard["b again"]) == (1, 1)
        assert backend.closed == [("a", 1)]


async def test_two_models_in_one_place(virtual_time, models, backend, opened):
    """Goal: each request is answered, though every one may need the other's model gone; no load is for nothing."""
    answers = []
    async with opened(**ON_REQUEST, loaded_models_max=1) as engine:

        async def caller(model):
            for value in range(10):
                answers.append(await ask(engine, model, value))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for model in "ab":
                nursery.start_soon(caller, model)
    assert sorted(answers) == sorted([*range(10)] * 2)
    assert len(backend.opened) <= 20


async def test_bytes(virtual_time, repository, backend, opened):
    """Goal: files count, unless the model says otherwise; what can never fit is refused at once, by name."""
    for name, size in (("a", 40), ("b", 40), ("c", 40), ("large", 101)):
        write_model(repository, name)
        (repository / name / "1" / "weights").write_bytes(bytes(size))
    said = 'parameters { key: "DESPINA_LOADED_BYTES" value { string_value: "90" } }'
    write_model(repository, "says", more=said)
    write_model(repository, "wrong", more=said.replace("90", "much"))
    async with opened(**ON_REQUEST, loaded_bytes_max=100) as engine:
        for name in ("a", "b", "c"):
            await ask(engine, name)
        assert backend.closed == [("a", 1)]
        await ask(engine, "says")
        assert sorted(backend.closed) == [("a", 1), ("b", 1), ("c", 1)]
        with pytest.raises(
            Unavailable, match="model 'large' takes up 101 bytes, more than all models together may: 100"
        ):
            await ask(engine, "large")
        with pytest.raises(Unavailable, match="'DESPINA_LOADED_BYTES': expected a number of bytes, got 'much'"):
            await ask(engine, "wrong")
        assert await ask(engine, "says") == 1


async def test_what_would_not_come_back_stays(virtual_time, models, backend, opened):
    """Goal: what was loaded with a configuration of its own, or asks to stay, is not evicted."""
    config = (
        '{"backend": "fake", "max_batch_size": 8, "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}]'
    )
    config += ', "output": [{"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]}]}'
    keep = 'parameters { key: "DESPINA_KEEP_LOADED" value { string_value: "true" } }'
    write_model(models, "b", more=keep)
    write_model(models, "wrong", more=keep.replace("true", "maybe"))
    async with opened(**ON_REQUEST, loaded_models_max=2, load_wait_secs=1) as engine:
        await engine.load("a", config=config)
        await ask(engine, "b")
        with pytest.raises(
            Unavailable,
            match="model 'c' is not loaded after 1 s: there is no room, 2 models are loaded; in use, or kept: 'a', 'b'",
        ):
            await ask(engine, "c")
        assert backend.closed == []
        with pytest.raises(Unavailable, match="'DESPINA_KEEP_LOADED': expected true or false, got 'maybe'"):
            await engine.load("wrong")


async def test_a_sequence_under_way_keeps_its_model(virtual_time, repository, backend, opened):
    """Goal: between two of its requests nothing is in flight, and it is in use all the same, until it is over."""
    write_model(repository, "a", more="sequence_batching { max_sequence_idle_microseconds: 100000000 }")
    write_model(repository, "b")
    async with opened(**ON_REQUEST, loaded_models_max=1, load_wait_secs=1) as engine:

        async def step(**flags):
            await engine.infer_request(request("a", correlation_id=5, **flags))

        await step(sequence_start=True)
        with pytest.raises(Unavailable, match=r"model 'b' is not loaded.*no room.*'a'"):
            await ask(engine, "b")
        await step(sequence_end=True)
        await trio.sleep(AGAIN_S)
        assert await ask(engine, "b") == 1


async def test_parts_of_an_ensemble(virtual_time, repository, backend, opened):
    """Goal: a request for an ensemble loads its parts; it is in use, or goes, as a whole, and comes back."""
    write_model(repository, "part")
    write_model(repository, "other")
    step = 'model_name: "part" model_version: -1 input_map { key: "IN" value: "IN" }'
    step += ' output_map { key: "OUT" value: "OUT" }'
    io = tensor_text("input", "IN") + tensor_text("output", "OUT")
    whole = f'platform: "ensemble"\nmax_batch_size: 8\n{io}ensemble_scheduling {{ step [{{ {step} }}] }}'
    write_model(repository, "whole", config=whole)
    async with opened(**ON_REQUEST, loaded_models_max=1, load_wait_secs=1) as engine:
        assert await ask(engine, "whole", 3) == 3
        assert await ask(engine, "other", 4) == 4
        assert backend.closed == [("part", 1)]
        assert (await states(engine))["whole"] == (await states(engine))["part"] == ("UNAVAILABLE", EVICTED)
        assert await ask(engine, "whole", 5) == 5
        assert engine.is_ready()
        gate = backend.execute = Gate()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, "whole")
            with pytest.raises(Unavailable, match=r"model 'other' is not loaded.*no room.*'part'"):
                await ask(engine, "other")
            gate.release()


async def test_a_load_by_command_finds_room_the_same_way(virtual_time, models, backend, opened):
    """Goal: the start and commands keep to the budget, too; a reload of one's own needs no room but one's own."""
    async with opened(**ON_REQUEST, load_model="*", loaded_models_max=2) as engine:
        assert len(engine.statistics()) == 2
        await engine.load("d")
        await engine.load("a")
        assert len(engine.statistics()) == 2
        (models / "a" / "1").touch()
        await engine.load("a")
        assert await ask(engine, "a") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"load_on_request": True}, "'--load-on-request' requires setting '--model-control-mode=explicit'"),
        ({"loaded_models_max": 2}, "'--loaded-models-max' requires setting '--load-on-request'"),
        ({"loaded_bytes_max": 2}, "'--loaded-bytes-max' requires setting '--load-on-request'"),
    ],
)
async def test_settings_that_cannot_be(opened, options, text):
    """Goal: refused at the start, in the words of the options."""
    with pytest.raises(ValueError, match=text):
        async with opened(**options):
            pass


async def test_a_backend_that_answers_late_keeps_its_model(virtual_time, models, backend, opened):
    """Goal: whose caller has left is in use until its execution is over."""
    release = trio.Event()

    async def execute(batch):
        await release.wait()
        answer(batch)

    backend.execute = execute
    async with opened(**ON_REQUEST, loaded_models_max=1, load_wait_secs=1) as engine:
        with trio.move_on_after(0.5):
            await ask(engine, "a")
        with pytest.raises(Unavailable, match="no room"):
            await ask(engine, "b")
        release.set()
        await trio.sleep(AGAIN_S)
        assert await ask(engine, "b") == 1


async def test_an_ensemble_that_found_no_room_keeps_nothing_from_others(virtual_time, models, backend, opened):
    """Goal: what an ensemble has had loaded before there was no room for the rest gives way like any other model."""
    write_ensemble(models, "e", steps=chain("a", "b"))
    write_ensemble(models, "outer", steps=chain("e", "a"))
    async with opened(**ON_REQUEST, loaded_models_max=1, load_wait_secs=2) as engine:
        for name in ("e", "outer"):
            with pytest.raises(Fault):
                await ask(engine, name)
        for name in "cabd":
            assert await ask(engine, name, 3) == 3
