"""Bounds of batches besides rows: bytes, and policies in Python."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import trio
from despina.engine.request.job import Job
from despina.engine.schedule import policies
from despina.engine.schedule.batching import BatchRule, form
from despina.engine.schedule.choice import scheduler_of
from despina.engine.schedule.dynamic import DynamicBatcher
from despina.engine.schedule.policies import GROUP, BatchBounds, batch_bounds
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest
from despina.schema.model_config import parse_config
from despina.schema.shared_memory import SharedTensor
from despina.schema.tensor import Tensor
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import Gate, request, write_model

BATCHING = "dynamic_batching {}"


def parameter(name, text):
    return f'parameters {{ key: "{name}" value {{ string_value: "{text}" }} }}'


def configuration(*more, max_batch_size=8):
    return parse_config(f'name: "m" max_batch_size: {max_batch_size} {" ".join(more)}'.encode())


class Evens:
    """For tests: a batch of requests with even ids only, or of one."""

    def __init__(self, config):
        assert config.name == "m"

    def begin(self):
        return self

    def include(self, request):
        return int(request.id) % 2 == 0


class Broken:
    def __init__(self, config):
        pass

    def begin(self):
        return self

    def include(self, request):
        raise SystemExit("what a policy may do")


class DoesNotBegin(Broken):
    def begin(self):
        raise ValueError("what a policy may do")


class DoesNotLoad:
    def __init__(self, config):
        raise KeyError("what a policy may do")


class Refuses:
    def __init__(self, config):
        raise InvalidArgument("tokens of what?")


def installed(**named):
    """Entry points of classes in this module."""
    return [EntryPoint(name, f"{__name__}:{kind.__name__}", GROUP) for name, kind in named.items()]


def job(id="", size=4, rows=1, deadline=0.0):
    tensor = Tensor("IN", "UINT8", [rows, size], memory=bytes(rows * size))
    made = Job(InferenceRequest("m", {"IN": tensor}, id=str(id)), lambda _: None)
    made.batch_size, made.deadline = rows, deadline
    return made


def rule(*parameters, delay_s=0.0, entries=(), **options):
    return BatchRule(8, delay_s=delay_s, bounds=batch_bounds(configuration(BATCHING, *parameters), entries), **options)


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 100))
def test_volumes_agree_with_the_oracle(sizes, limit):
    """Goal: as many as fit, at least one, whatever its size; the reason says which bound it was."""
    verdict = form([job(size=size) for size in sizes], rule(parameter(policies.VOLUME, limit)), 0.0)
    expected = next((n for n in range(2, len(sizes) + 1) if sum(sizes[:n]) > limit), len(sizes) + 1) - 1
    assert verdict.count == min(max(expected, min(1, len(sizes))), 8)
    if 0 < verdict.count < min(len(sizes), 8):
        assert verdict.reason == "policy"


def test_a_large_first_request_goes_alone():
    """Goal: a request that no bound lets in is served all the same, and by itself."""
    verdict = form([job(size=9), job(size=0)], rule(parameter(policies.VOLUME, 8), delay_s=9.0), 0.0)
    assert (verdict.count, verdict.reason) == (1, "policy")


def test_shared_memory_counts_without_being_read():
    """Goal: what lies in a region has the size that the request says."""

    class Extent:
        byte_size = 7

    shared = job()
    shared.request.inputs = {"IN": SharedTensor("IN", "UINT8", [1, 7], Extent())}
    verdict = form([job(size=2), shared], rule(parameter(policies.VOLUME, 8)), 0.0)
    assert verdict.count == 1


def test_both_bounds_hold():
    """Goal: each is told of every request, and both must agree."""
    both = parameter(policies.VOLUME, 12), parameter(policies.NAMED, "evens")
    bounded = rule(*both, entries=installed(evens=Evens))
    assert form([job(id) for id in (2, 4, 6, 8)], bounded, 0.0).count == 3
    assert form([job(id) for id in (2, 4, 5, 6)], bounded, 0.0).count == 2
    assert form([job(id) for id in (1, 2, 4, 6)], bounded, 0.0).count == 3


@pytest.mark.parametrize("kind", [Broken, DoesNotBegin])
def test_a_policy_that_raises_closes_the_batch(kind, caplog):
    """Goal: requests are served one by one, and the log says why."""
    bounds = BatchBounds("m", [kind(None)])
    assert form([job(), job()], BatchRule(8, bounds=bounds), 0.0).count == 1
    assert "model 'm': its batch policy failed, the batch is closed" in caplog.text
    assert "what a policy may do" in caplog.text


def test_who_comes_up_for_a_late_one_was_not_judged():
    """Goal: a batch never holds what its bounds did not include, also where a request is found too late for it."""
    box = DynamicBatcher(rule(parameter(policies.VOLUME, 8)), 100, lambda: 10.0)
    jobs = [job("late", deadline=5.0), job("a"), job("b"), job("c")]
    for each in jobs:
        box.put(each)
    taken = []
    while True:
        batch, late, _ = box.take("i", 0.0)
        if batch is None and not late:
            break
        if batch is not None:
            taken.append([each.request.id for each in batch.jobs])
            assert sum(len(each.request.inputs["IN"].memory()) for each in batch.jobs) <= 8
    assert [id for ids in taken for id in ids] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("config", "entries", "text"),
    [
        (
            configuration(BATCHING, parameter(policies.NAMED, "x")),
            {},
            "no batch policy 'x' is installed; installed are: none",
        ),
        (
            configuration(BATCHING, parameter(policies.NAMED, "x")),
            {"a": Evens, "b": Evens},
            "model 'm': no batch policy 'x' is installed; installed are: a, b",
        ),
        (configuration(parameter(policies.NAMED, "x")), {"x": Evens}, "it needs dynamic_batching and a max_batch_size"),
        (
            configuration(BATCHING, parameter(policies.NAMED, "x"), max_batch_size=1),
            {"x": Evens},
            "it needs dynamic_batching and a max_batch_size above 1",
        ),
        (
            configuration(BATCHING, parameter(policies.NAMED, "x")),
            {"x": DoesNotLoad},
            "failed to load: KeyError: 'what a policy may do'",
        ),
        (configuration(BATCHING, parameter(policies.NAMED, "x")), {"x": Refuses}, "tokens of what?"),
        *(
            (
                configuration(BATCHING, parameter(policies.VOLUME, text)),
                {},
                f"model 'm': failed to convert '{text[:64]}' to unsigned int64 for parameter MAX_BATCH_VOLUME_BYTES",
            )
            for text in ("", "-1", "0", "x", "1.5", "9" * 5000, "18446744073709551616", "٣")
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_load(config, entries, text):
    """Goal: by name, with what there is."""
    with pytest.raises(InvalidArgument) as caught:
        batch_bounds(config, installed(**entries))
    assert text in caught.value.message


def test_a_sequence_batcher_has_no_policy():
    """Goal: refused, not ignored."""
    config = configuration("sequence_batching {}", parameter(policies.NAMED, "x"))
    with pytest.raises(InvalidArgument, match="it needs dynamic_batching"):
        scheduler_of(config, None, 10, lambda: 0.0)


def test_usual_models_have_no_bounds():
    """Goal: nothing is asked of anybody."""
    assert batch_bounds(configuration(BATCHING)) is None


async def test_a_bounded_model_serves(repository, backend, opened):
    """Goal: by real requests: what waits goes in batches of at most 8 bytes, and statistics say why."""
    backend.execute = gate = Gate()
    write_model(repository, "m", more=f"{BATCHING} {parameter(policies.VOLUME, 8)}")
    with trio.fail_after(5):
        async with opened() as engine, trio.open_nursery() as nursery:
            for value in range(6):
                nursery.start_soon(engine.infer_request, request(id=str(value)))
                await trio.testing.wait_all_tasks_blocked()
            while engine.statistics("m")[0].inference_count < 6:
                await trio.testing.wait_all_tasks_blocked()
                gate.release()
                await trio.testing.wait_all_tasks_blocked()
    assert backend.ids == [["0"], ["1", "2"], ["3", "4"], ["5"]]
    assert [one.reason for one in backend.executed] == ["eager", "policy", "policy", "eager"]


async def test_a_strategy_library_is_refused_by_name(repository, backend, opened):
    """Goal: where the reference server would load one it is never ignored. Without dynamic batching nobody looks."""
    for place in ("batchstrategy.so", "1/batchstrategy.so"):
        path = write_model(repository, "m", more=BATCHING)
        (path / place).write_bytes(b"")
        async with opened(model_control_mode="explicit") as engine:
            with pytest.raises(
                InvalidArgument, match=rf"{place}' is not supported yet; a policy in Python is named by"
            ):
                await engine.load("m")
            write_model(repository, "m")
            await engine.load("m")
        (path / place).unlink()
