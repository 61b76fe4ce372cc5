"""Requests to ensembles on virtual time: order, company, room, every way to leave and to fail, accounting."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import trio
from despina.engine.model.ensemble.run import Run
from despina.schema.fault import DeadlineExceeded, Internal, InvalidArgument, ModelFailure, QueueFull, ShuttingDown
from despina.schema.tensor import Tensor

from tests.fakes import SCALAR_IO, chain, request, tensor_text, touch, value_of, write_ensemble, write_model

EXPLICIT = {"model_control_mode": "explicit"}
PAIR = tensor_text("input", "IN0") + tensor_text("input", "IN1") + tensor_text("output", "OUT0")


class Work:
    """An `execute` by model: what each does with a number, how long it takes, and what it waits for."""

    def __init__(self, **does):
        self.does = does
        self.cost_s = {}
        self.began = []
        self.batches = []
        self.jobs = {}

    async def __call__(self, batch):
        name = batch.jobs[0].request.model_name
        self.began.append((name, trio.current_time()))
        self.batches.append((name, batch.size))
        self.jobs.setdefault(name, []).extend(batch.jobs)
        await trio.sleep(self.cost_s.get(name, 0))
        for job in batch.jobs:
            tensors = {key: tensor.numpy() for key, tensor in job.request.inputs.items()}
            try:
                made = self.does.get(name, lambda values: next(iter(values.values())))(tensors)
            except Exception as error:
                job.fail(error if isinstance(error, ModelFailure | InvalidArgument) else ModelFailure(str(error)))
                continue
            outputs = made if isinstance(made, dict) else {"OUT0" if "IN0" in tensors else "OUT": made}
            wanted = job.request.outputs or outputs
            job.respond([Tensor.of(key, value) for key, value in outputs.items() if key in wanted])


def plus(number):
    return lambda values: values["IN"] + np.int32(number)


def fails(text):
    def fail(_):
        raise ModelFailure(text)

    return fail


class Caller:
    def __init__(self):
        self.calls = []
        self.done = trio.Event()

    def __call__(self, call):
        self.calls.append(call)
        self.done.set()

    @property
    def fault(self):
        (call,) = self.calls
        return call.fault


def counts(engine, name):
    """(success, failures by reason) of a model."""
    (version,) = [version for version in engine.versions() if version.name == name]
    return version.statistics.success_count, {k: v for k, v in version.statistics.failures.items() if v}


async def settle():
    await trio.testing.wait_all_tasks_blocked()


@pytest.fixture
def work(backend):
    backend.execute = work = Work()
    return work


async def test_steps_follow_each_other(virtual_time, repository, backend, opened, work):
    """Goal: what one step makes the next one gets; each model counts its request, the ensemble one, with the sums of
    its steps; requests of steps carry what the request does."""
    work.does = {"a": plus(1), "b": plus(10)}
    write_model(repository, "a")
    write_model(repository, "b")
    write_ensemble(repository, "e", steps=chain("a", "b", "a"))
    async with opened() as engine:
        sent = request("e", 5, rows=2, id="x", priority=3, timeout_us=9, parameters={"p": 1}, correlation_id=7)
        response = await engine.infer_request(sent)
        assert (value_of(response), response.id, response.model_name, response.model_version) == (17, "x", "e", "1")
        assert response.outputs[0].shape == (2, 1)
        assert [counts(engine, name) for name in "abe"] == [(2, {}), (1, {}), (1, {})]
        told = work.jobs["b"][0].request
        assert (told.id, told.priority, told.timeout_us, told.parameters) == ("x", 3, 9, {"p": 1})
        assert (told.correlation_id, told.model_version, told.outputs) == (7, -1, ("OUT",))
        whole, a, b = (engine.statistics(name)[0] for name in "eab")
        assert whole.inference_count == 2
        assert whole.execution_count == 1
        assert [batch.batch_size for batch in whole.batch_stats] == [2]
        for part in ("compute_input", "compute_infer", "compute_output"):
            sums = sum(getattr(model.inference_stats, part).ns for model in (a, b))
            assert getattr(whole.inference_stats, part).ns == sums
        assert engine.model_metadata("e").platform == "ensemble"


async def test_no_tensor_is_copied_between_steps(virtual_time, repository, backend, opened, work):
    """Goal: a model reads the very memory that the one before has written, and the caller that of the last."""
    made = np.full((1, 1), 9, np.int32)
    work.does = {"a": lambda _: made, "b": lambda values: values["IN"]}
    write_model(repository, "a")
    write_model(repository, "b")
    write_ensemble(repository, "e", steps=chain("a", "b"))
    async with opened() as engine:
        response = await engine.infer_request(request("e"))
        assert work.jobs["b"][0].request.inputs["IN"].array is made
        assert np.shares_memory(response.outputs[0].numpy(), made)


DIAMOND = [
    ("a", {"IN": "IN"}, {"OUT": "x"}),
    ("left", {"IN": "x"}, {"OUT": "y"}),
    ("right", {"IN": "x"}, {"OUT": "z"}),
    ("join", {"IN0": "y", "IN1": "z"}, {"OUT0": "OUT"}),
]


def write_diamond(repository):
    for name in ("a", "left", "right"):
        write_model(repository, name)
    write_model(repository, "join", tensors=PAIR)
    write_ensemble(repository, "e", steps=DIAMOND[::-1])


async def test_steps_that_need_not_wait_for_each_other_do_not(virtual_time, repository, backend, opened, work):
    """Goal: two branches execute at the same time; the step that joins them begins once both are there."""
    work.does = {
        "left": plus(1),
        "right": plus(2),
        "join": lambda values: values["IN0"] * np.int32(100) + values["IN1"],
    }
    work.cost_s = {"a": 1, "left": 5, "right": 3, "join": 1}
    write_diamond(repository)
    async with opened() as engine:
        began = trio.current_time()
        assert value_of(await engine.infer_request(request("e", 1))) == 203
        times = {name: at - began for name, at in work.began}
        assert times == pytest.approx({"a": 0, "left": 1, "right": 1, "join": 6})
        assert trio.current_time() - began == 7


async def test_a_step_that_fails_cancels_the_others(virtual_time, repository, backend, opened, work):
    """Goal: the caller hears at once, with the ensemble's name before the model's text; the sibling under way has lost
    its caller; nothing else begins; each counts for what it is."""
    work.does = {"right": fails("broken")}
    work.cost_s = {"left": 50, "right": 3}
    write_diamond(repository)
    async with opened() as engine:
        caller = Caller()
        engine.model("e").submit(request("e", 1), caller)
        await caller.done.wait()
        assert isinstance(caller.fault, ModelFailure)
        assert caller.fault.message == "in ensemble 'e', broken"
        assert trio.current_time() == pytest.approx(work.began[0][1] + 3)
        assert work.jobs["left"][0].is_cancelled()
        await trio.sleep(60)
        assert [counts(engine, name) for name in ("e", "a", "left", "right", "join")] == [
            (0, {"OTHER": 1}),
            (1, {}),
            (0, {"CANCELED": 1}),
            (0, {"BACKEND": 1}),
            (0, {}),
        ]
        assert len(caller.calls) == 1


async def test_a_step_that_is_refused_fails_the_request(virtual_time, repository, backend, opened, work):
    """Goal: what a model refuses is said with the ensemble's name, and counted there only."""
    write_model(repository, "a", more="dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
    write_ensemble(repository, "e", steps=chain("a"))
    work.cost_s = {"a": 5}
    async with opened() as engine:
        callers = [Caller() for _ in range(3)]
        for caller in callers:
            engine.model("e").submit(request("e", 1, rows=8), caller)
            await settle()
        assert isinstance(callers[2].fault, QueueFull)
        assert callers[2].fault.message == "in ensemble 'e', [request id: <id_unknown>] Exceeds maximum queue size"
        await trio.sleep(20)
        assert counts(engine, "a") == (2, {})
        assert counts(engine, "e") == (2, {"OTHER": 1})


@pytest.mark.parametrize("executing", [False, True])
async def test_a_caller_that_leaves_takes_the_steps_along(virtual_time, repository, backend, opened, work, executing):
    """Goal: a step that waits gives its place back at once, one that executes learns that nobody wants its answer;
    nothing begins after it; CANCELED everywhere; leaving again is nothing."""
    write_model(repository, "a")
    write_model(repository, "b")
    write_ensemble(repository, "e", steps=chain("a", "b"))
    work.cost_s = {"a": 5}
    async with opened() as engine:
        model, before, caller = engine.model("e"), Caller(), Caller()
        if not executing:
            engine.model("a").submit(request("a"), before)
        call = model.submit(request("e", 1), caller)
        await settle()
        assert engine.model("a").pending == (0 if executing else 1)
        call.cancel()
        call.cancel()
        assert engine.model("a").pending == 0
        assert model.ledger.inflight == 0
        if executing:
            assert work.jobs["a"][0].is_cancelled()
        await trio.sleep(10)
        assert counts(engine, "e") == (0, {"CANCELED": 1})
        assert counts(engine, "a") == ((0, {"CANCELED": 1}) if executing else (1, {"CANCELED": 1}))
        assert "b" not in work.jobs
        assert not caller.calls


async def test_a_deadline_is_kept_over_all_steps(virtual_time, repository, backend, opened, work):
    """Goal: the time of one step is not left to the next; what is under way then has lost its caller."""
    for name in "ab":
        write_model(repository, name)
    write_ensemble(repository, "e", steps=chain("a", "b"))
    work.cost_s = {"a": 3, "b": 3}
    async with opened() as engine:
        began, caller = trio.current_time(), Caller()
        engine.model("e").submit(request("e", 1), caller, began + 5)
        await caller.done.wait()
        assert isinstance(caller.fault, DeadlineExceeded)
        assert trio.current_time() - began == pytest.approx(5)
        assert work.jobs["b"][0].is_cancelled()
        await trio.sleep(5)
        assert [counts(engine, name) for name in "eab"] == [(0, {"CANCELED": 1}), (1, {}), (0, {"CANCELED": 1})]


async def test_only_what_is_wanted_is_done(virtual_time, repository, backend, opened, work):
    """Goal: steps that no wanted output needs do not execute, and models make no outputs that nobody reads."""
    for name in ("a", "left", "right"):
        write_model(repository, name)
    steps = [
        ("a", {"IN": "IN"}, {"OUT": "x"}),
        ("left", {"IN": "x"}, {"OUT": "L"}),
        ("right", {"IN": "x"}, {"OUT": "R"}),
    ]
    write_ensemble(repository, "e", steps=steps, outputs=("L", "R", "x"))
    async with opened() as engine:
        for wanted, models in ((("L",), ["a", "left"]), (("x",), ["a"]), ((), ["a", "left", "right"])):
            work.batches.clear()
            response = await engine.infer_request(request("e", 4, outputs=wanted))
            assert sorted(name for name, _ in work.batches) == models
            assert [tensor.name for tensor in response.outputs] == list(wanted or ("L", "R", "x"))
        with pytest.raises(InvalidArgument) as caught:
            await engine.infer_request(request("e", 4, outputs=("none",)))
        assert caught.value.message == "unexpected inference output 'none' for model 'e'"


async def test_requests_share_batches_within_steps(virtual_time, repository, backend, opened, work):
    """Goal: eight requests to the ensemble are one batch in each of its models."""
    batching = "dynamic_batching { max_queue_delay_microseconds: 1000000 preferred_batch_size: [8] }"
    for name in "ab":
        write_model(repository, name, more=batching)
    write_ensemble(repository, "e", steps=chain("a", "b"))
    async with opened() as engine:
        callers = [Caller() for _ in range(8)]
        for number, caller in enumerate(callers):
            engine.model("e").submit(request("e", number), caller)
        await trio.sleep(0.5)
        assert work.batches == [("a", 8), ("b", 8)]
        assert [value_of(caller.calls[0].response) for caller in callers] == list(range(8))


async def test_what_may_be_missing_may_be_missing(virtual_time, repository, backend, opened, work):
    """Goal: an optional input that was not sent is not sent on; what a model has not made is missing in the answer,
    and for a model behind it that can do without."""
    may = tensor_text("input", "MAY", more="optional: true")
    write_model(repository, "a", tensors=SCALAR_IO + may)
    write_model(repository, "b", tensors=SCALAR_IO + tensor_text("output", "P"))
    steps = [("b", {"IN": "IN"}, {"OUT": "x", "P": "p"}), ("a", {"IN": "x", "MAY": "MAY"}, {"OUT": "OUT"})]
    steps += [("a", {"IN": "x", "MAY": "p"}, {"OUT": "Q"})]
    write_ensemble(repository, "e", steps=steps, outputs=("OUT", "Q", "p"), more=may)
    work.does = {"b": lambda values: {"OUT": values["IN"]}, "a": lambda values: {"OUT": values["IN"]}}
    async with opened() as engine:
        response = await engine.infer_request(request("e", 3))
        assert [tensor.name for tensor in response.outputs] == ["OUT", "Q"]
        assert [list(job.request.inputs) for job in work.jobs["a"]] == [["IN"], ["IN"]]
        sent = request("e", 3)
        sent.inputs["MAY"] = Tensor.of("MAY", np.full((1, 1), 4, np.int32))
        await engine.infer_request(sent)
        assert sorted(list(job.request.inputs) for job in work.jobs["a"][2:]) == [["IN"], ["IN", "MAY"]]


async def test_ensembles_within_ensembles(virtual_time, repository, backend, opened, work):
    """Goal: one asks another; a fault says over which ensembles it came; who leaves takes all of it along."""
    work.does = {"a": plus(1)}
    write_model(repository, "a")
    write_ensemble(repository, "inner", steps=chain("a", "a"))
    write_ensemble(repository, "e", steps=chain("inner", "a", "inner"))
    async with opened() as engine:
        assert engine.model("e").depth == 2
        assert value_of(await engine.infer_request(request("e", 0))) == 5
        assert [counts(engine, name) for name in ("a", "inner", "e")] == [(5, {}), (2, {}), (1, {})]
        work.cost_s = {"a": 5}
        call = engine.model("e").submit(request("e"), Caller())
        await settle()
        call.cancel()
        assert work.jobs["a"][-1].is_cancelled()
        assert counts(engine, "inner") == (2, {"CANCELED": 1})
        await trio.sleep(6)
        work.cost_s, work.does = {}, {"a": fails("broken")}
        with pytest.raises(ModelFailure) as caught:
            await engine.infer_request(request("e"))
        assert caught.value.message == "in ensemble 'e', in ensemble 'inner', broken"


async def test_tensors_are_made_to_fit_between_models_that_batch_and_those_that_do_not(
    virtual_time, repository, backend, opened, work
):
    """Goal: a first dimension of 1 comes and goes, unless the shape fits as it is."""
    write_model(repository, "whole", max_batch_size=0)
    write_model(repository, "rows")
    write_ensemble(repository, "e", steps=chain("whole", "rows", "whole"), max_batch_size=0)
    async with opened() as engine:
        response = await engine.infer_request(request("e", 3, batching=False))
        assert [job.request.inputs["IN"].shape for job in work.jobs["rows"]] == [(1, 1)]
        assert [job.request.inputs["IN"].shape for job in work.jobs["whole"]] == [(1,), (1,)]
        assert response.outputs[0].shape == (1,)


async def test_a_request_keeps_the_versions_that_it_began_with(virtual_time, repository, backend, opened, work):
    """Goal: a model replaced or unloaded while a request is on its way answers that request as it was, then ends; what
    comes later gets the new one, or is refused."""
    work.cost_s = {"a": 5}
    write_model(repository, "a")
    path = write_model(repository, "b")
    write_ensemble(repository, "e", steps=chain("a", "b"))
    async with opened(**EXPLICIT) as engine:
        await engine.load("e")
        first, second = Caller(), Caller()
        engine.model("e").submit(request("e", 1), first)
        await trio.sleep(1)
        write_model(repository, "b", versions=(2,))
        touch(path, 5)
        await engine.load("b")
        assert engine.model("b").version == 2
        engine.model("e").submit(request("e", 2), second)
        await trio.sleep(1)
        assert ("b", 1) not in backend.closed
        await trio.sleep(12)
        assert [caller.fault for caller in (first, second)] == [None, None]
        assert [(one.model, one.version) for one in backend.executed if one.model == "b"] == [("b", 1), ("b", 2)]
        assert ("b", 1) in backend.closed
        third = Caller()
        engine.model("e").submit(request("e", 3), third)
        await engine.unload("b")
        await settle()
        assert not any(version.name == "e" for version in engine.versions())
        await third.done.wait()
        assert value_of(third.calls[0].response) == 3
        await settle()
        assert ("b", 2) in backend.closed


async def test_a_model_of_an_ensemble_is_replaced_without_a_gap(virtual_time, repository, backend, opened, work):
    """Goal: while a model is loaded anew, again and again, every request to the ensemble is answered."""
    work.cost_s = {"a": 0.1, "b": 0.1}
    path = write_model(repository, "a", instances=4)
    write_model(repository, "b", instances=4)
    write_ensemble(repository, "e", steps=chain("b", "a", "b"))
    answered = 0
    async with opened(**EXPLICIT) as engine:
        await engine.load("e")

        async def ask():
            nonlocal answered
            for number in range(50):
                assert value_of(await engine.infer_request(request("e", number))) == number
                answered += 1

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            for turn in range(10):
                await trio.sleep(1)
                touch(path / "1", 10 * (turn + 1))
                await engine.load("a")
        assert answered == 150
        assert backend.opened.count(("a", 1)) == 11


async def test_so_many_requests_may_be_in_one_step(virtual_time, repository, backend, opened, work):
    """Goal: `max_inflight_requests` bounds each step over all requests; the others wait in order, and who leaves
    while waiting is gone."""
    work.cost_s = {"a": 1, "b": 10}
    write_model(repository, "a", instances=8)
    write_model(repository, "b", instances=8)
    write_ensemble(repository, "e", steps=chain("a", "b"), max_inflight=2)
    async with opened() as engine:
        began, model = trio.current_time(), engine.model("e")
        callers = [Caller() for _ in range(6)]
        calls = [model.submit(request("e", number), caller) for number, caller in enumerate(callers)]
        await settle()
        assert len(work.jobs["a"]) == 2
        (status,) = model.status()
        assert status.facts["waiting in step 0"] == 4
        await trio.sleep(4)
        assert sorted(job.request.inputs["IN"].numpy().item() for job in work.jobs["b"]) == [0, 1]
        assert model.status()[0].facts["waiting in step 1"] == 4
        calls[2].cancel()
        calls[0].cancel()
        await trio.sleep(30)
        assert [value_of(caller.calls[0].response) for caller in callers if caller.calls] == [1, 3, 4, 5]
        # 0 leaves at 4, and its place is free: it is nobody's fault that the batch goes on.
        assert [(at - began) for name, at in work.began if name == "b"] == pytest.approx([1, 1, 4, 11, 14])
        assert model.status()[0].facts.keys() == {"reading", "broken"}


async def test_an_ensemble_has_a_bound_too(virtual_time, repository, backend, opened, work):
    """Goal: more than `queue_size_max` in flight are refused, and counted as no failure of the protocol's."""
    work.cost_s = {"a": 1}
    write_model(repository, "a", instances=4)
    write_ensemble(repository, "e", steps=chain("a"))
    async with opened(queue_size_max=2) as engine:
        callers = [Caller(), Caller()]
        for caller in callers:
            engine.model("e").submit(request("e"), caller)
        with pytest.raises(QueueFull) as caught:
            engine.model("e").submit(request("e", id="z"), Caller())
        assert caught.value.message == "[request id: z] Exceeds maximum queue size"
        assert engine.model("e").statistics.unserved["queue_full"] == 1
        await trio.sleep(2)
        assert counts(engine, "e") == (2, {})


async def test_unloaded_while_requests_are_under_way(virtual_time, repository, backend, opened, work):
    """Goal: what is under way is answered, models included; new requests are refused; then nothing is left."""
    work.cost_s = {"a": 5, "b": 5}
    for name in "ab":
        write_model(repository, name)
    write_ensemble(repository, "e", steps=chain("a", "b"))
    async with opened(**EXPLICIT) as engine:
        await engine.load("e")
        caller, model = Caller(), engine.model("e")
        model.submit(request("e", 1), caller)
        await trio.sleep(1)
        await engine.unload("e", unload_dependents=True)
        assert [version.name for version in engine.versions()] == []
        with pytest.raises(ShuttingDown) as caught:
            model.submit(request("e", 1), Caller())
        assert caught.value.message.endswith("scheduler for model has stopped accepting new inference requests")
        await caller.done.wait()
        assert value_of(caller.calls[0].response) == 1
        await settle()
        assert sorted(backend.closed) == [("a", 1), ("b", 1)]


async def test_stopping_bounds_the_wait_for_what_is_under_way(virtual_time, repository, backend, opened, work):
    """Goal: when the time for stopping is over, whoever waits hears why, and everything is closed."""
    work.cost_s = {"a": 1000}
    write_model(repository, "a")
    write_ensemble(repository, "e", steps=chain("a"))
    caller = Caller()
    began = trio.current_time()

    async def serve():
        async with opened(exit_timeout_secs=5) as engine:
            engine.model("e").submit(request("e", 1), caller)

    with pytest.raises(Internal) as caught:
        await serve()
    assert caught.value.message == "Exit timeout expired. Exiting immediately."
    assert isinstance(caller.fault, ShuttingDown)
    assert trio.current_time() - began < 20
    assert backend.closed == [("a", 1)]


async def test_what_breaks_in_a_run_is_the_callers_fault_and_nobody_elses(
    virtual_time, repository, backend, opened, work, monkeypatch, caplog
):
    """Goal: a bug while an answer is handed on ends that request with a fault, and the next is served."""
    for name in "ab":
        write_model(repository, name)
    write_ensemble(repository, "e", steps=chain("a", "b"))
    async with opened() as engine:
        with monkeypatch.context() as patch:
            patch.setattr(Run, "_give_answer", lambda *_: 1 / 0)
            caller = Caller()
            engine.model("e").submit(request("e", 1), caller)
            await caller.done.wait()
        assert "in ensemble 'e', ZeroDivisionError" in caller.fault.message
        assert any(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)
        assert engine.model("e").ledger.inflight == engine.model("a").ledger.pins == 0
        assert value_of(await engine.infer_request(request("e", 2))) == 2


async def test_sequences_go_through_steps(virtual_time, repository, backend, opened, work):
    """Goal: a step's answer may name another sequence: the next step's request belongs to that one, and the answer
    says so; without that, the request's own."""
    sequences = (
        'sequence_batching { control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START '
        "int32_false_true: [0, 1] }] }] }"
    )

    async def execute(batch):
        for job in batch.jobs:
            work.jobs.setdefault(job.request.model_name, []).append(job)
            named = {"sequence_id": 99, "sequence_start": True, "sequence_end": True}
            parameters = named if job.request.model_name == "names" else None
            job.respond([Tensor.of("OUT", job.request.inputs["IN"].numpy())], parameters)

    backend.execute = execute
    write_model(repository, "names")
    write_model(repository, "s", more=sequences)
    write_ensemble(repository, "plain", steps=chain("s"))
    write_ensemble(repository, "named", steps=chain("names", "s"))
    async with opened() as engine:
        for start, end in ((True, False), (False, False), (False, True)):
            sent = request("plain", 1, correlation_id=5, sequence_start=start, sequence_end=end)
            said = {"sequence_id": 5, "sequence_start": start, "sequence_end": end}
            assert (await engine.infer_request(sent)).parameters == said
        with pytest.raises(InvalidArgument) as caught:
            await engine.infer_request(request("plain", 1, correlation_id=6))
        assert caught.value.message.startswith("in ensemble 'plain', ")
        assert "must specify the START flag" in caught.value.message
        response = await engine.infer_request(request("named", 1, correlation_id=5))
        told = work.jobs["s"][-1].request
        assert (told.correlation_id, told.sequence_start, told.sequence_end) == (99, True, True)
        assert response.parameters == {"sequence_id": 99, "sequence_start": True, "sequence_end": True}
