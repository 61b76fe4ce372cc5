"""Trace files: what a traced request leaves behind, and in which file."""

from __future__ import annotations

import json
from pathlib import Path

import despina
import numpy as np
import pytest
import trio
import trio.testing
from despina.engine.observe import trace_worker
from despina.engine.observe.trace_file import TraceFile, data_text
from despina.engine.observe.trace_worker import TraceWorker
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.engine.port.sink import CapturedTensor
from despina.schema.fault import Fault
from despina.schema.tensor import Tensor

from tests.fakes import FakeBackend, Gate, chain, request, write_ensemble, write_model

NAMES = [
    "REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "COMPUTE_START", "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END",
]  # fmt: skip


def settings(folder, **options):
    return TraceSettings(**{"level": ["TIMESTAMPS"], "rate": 1, "file": str(folder / "trace.json"), **options})


def traces(path):
    """Trace id -> its objects, and the names of its moments."""
    found = {}
    for one in json.loads(path.read_text()):
        found.setdefault(one["id"], []).append(one)
    return found


def names(objects):
    return [stamp["name"] for one in objects for stamp in one.get("timestamps", [])]


@pytest.fixture
def models(tmp_path):
    path = tmp_path / "models"
    write_model(path, "m")
    return path


async def test_why_a_batch_has_its_size_is_on_file(tmp_path):
    """Goal: beside COMPUTE_START, whose object has the protocol's members as ever: rows, requests, and the reason.
    Method: one is held, three wait behind it, of which two are preferred."""
    models, gate, backend = tmp_path / "models", Gate(), FakeBackend()
    write_model(models, "m", more="dynamic_batching { preferred_batch_size: 2 }")
    backend.execute = gate
    async with (
        despina.open_engine(models, backends={"fake": backend}, trace=settings(tmp_path)) as engine,
        trio.open_nursery() as nursery,
    ):
        for id in ("alone", "a", "b", "left"):
            nursery.start_soon(engine.infer_request, request(id=id))
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            gate.release()
    found = {}
    for about, *rest in traces(tmp_path / "trace.json").values():
        (started,) = [one for one in rest if "batch" in one]
        assert [stamp["name"] for stamp in started.pop("timestamps")] == ["COMPUTE_START"]
        assert started.keys() == {"id", "batch"}
        found[about["request_id"]] = tuple(started["batch"].values())
    pair = (2, 2, "preferred")
    assert found == {"alone": (1, 1, "eager"), "a": pair, "b": pair, "left": (1, 1, "eager")}


async def test_a_request_on_file(models, tmp_path):
    """Goal: the objects of one request in the protocol's order: about, moments, tensors; times do not go back."""
    backends = {"fake": FakeBackend()}
    trace = settings(tmp_path, level=["TIMESTAMPS", "TENSORS"])
    async with despina.open_engine(models, backends=backends, trace=trace) as engine:
        await engine.infer_request(request(id="r1", value=7))
    ((about, *rest),) = traces(tmp_path / "trace.json").values()
    assert about == {"id": 1, "model_name": "m", "model_version": 1, "request_id": "r1"}
    assert names(rest) == NAMES
    tensors = [one for one in rest if "activity" in one]
    assert tensors == [
        {"id": 1, "activity": activity, "tensor": {"name": name, "data": "7", "shape": "1,1", "dtype": "INT32"}}
        for activity, name in (("TENSOR_QUEUE_INPUT", "IN"), ("TENSOR_BACKEND_OUTPUT", "OUT"))
    ]
    times = {stamp["name"]: stamp["ns"] for one in rest for stamp in one.get("timestamps", [])}
    order = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"]
    order += ["COMPUTE_END", "REQUEST_END"]
    assert [times[name] for name in order] == sorted(times[name] for name in order)


async def test_numbered_files(models, tmp_path):
    """Goal: so many traces to a file, the rest in one more at the end; never the plain file."""
    trace = settings(tmp_path, log_frequency=2)
    async with despina.open_engine(models, backends={"fake": FakeBackend()}, trace=trace) as engine:
        for index in range(5):
            await engine.infer_request(request(id=str(index)))
    assert [len(traces(tmp_path / f"trace.json.{index}")) for index in range(3)] == [2, 2, 1]
    assert not (tmp_path / "trace.json").exists()


async def test_a_count_that_is_used_up_is_written_at_once(models, tmp_path):
    """Goal: the last trace of a count does not wait for the end; later settings append to the plain file."""
    trace = settings(tmp_path, count=2)
    async with despina.open_engine(models, backends={"fake": FakeBackend()}, trace=trace) as engine:
        for _ in range(3):
            await engine.infer_request(request())
        with trio.fail_after(5):
            while not (tmp_path / "trace.json.0").exists() or not (tmp_path / "trace.json.0").read_text():  # noqa: ASYNC110  # a thread writes it
                await trio.sleep(0.01)
        engine.tracer.change({"count": -1})
        await engine.infer_request(request())
        engine.tracer.change({"rate": 1})
        await engine.infer_request(request())
    assert list(traces(tmp_path / "trace.json.0")) == [1, 2]
    assert list(traces(tmp_path / "trace.json")) == [3, 4]


async def test_failures_and_leaving(models, tmp_path):
    """Goal: a failed request ends its trace; a caller that leaves the queue ends it too; a refused one leaves none."""
    backend = FakeBackend()
    backend.execute = gate = Gate()
    async with despina.open_engine(models, backends={"fake": backend}, trace=settings(tmp_path)) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.infer_request, request(id="held"))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0):
                await engine.infer_request(request(id="gone"))
            with trio.CancelScope() as leaving:
                nursery.start_soon(_leave_soon, leaving)
                await engine.infer_request(request(id="left"))
            gate.release()
        with pytest.raises(Fault):
            await engine.infer_request(request("m", batching=False))
        assert engine.model("m").ledger._traced == 0
    found = {objects[0]["request_id"]: names(objects) for objects in traces(tmp_path / "trace.json").values()}
    assert found == {"held": NAMES, "left": ["REQUEST_START", "QUEUE_START", "REQUEST_END"]}


async def test_an_ensemble_on_file(tmp_path):
    """Goal: what a request causes has traces of its own that say who caused them, before it in its file; those of a
    step that fails, is cancelled or was refused, too; nothing is left over."""
    path = tmp_path / "models"
    for name in "ab":
        write_model(path, name)
    write_ensemble(path, "inner", steps=chain("a", "b"))
    write_ensemble(path, "e", steps=chain("inner", "a"))
    backend = FakeBackend()
    trace = settings(tmp_path, level=["TIMESTAMPS", "TENSORS"])
    async with despina.open_engine(path, backends={"fake": backend}, trace=trace) as engine:
        await engine.infer_request(request("e", 7, id="r1"))
        backend.execute = Gate()
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as leaving:
                nursery.start_soon(_leave_soon, leaving)
                await engine.infer_request(request("e", 7, id="left"))
            backend.execute.release()
        await trio.testing.wait_all_tasks_blocked()
        assert {version.ledger._traced for version in engine.versions()} == {0}
    found = traces(tmp_path / "trace.json")
    about = {id: objects[0] for id, objects in found.items()}
    assert [(one["model_name"], one.get("parent_id")) for id, one in about.items() if one["request_id"] == "r1"] == [
        ("a", 2),
        ("b", 2),
        ("inner", 1),
        ("a", 1),
        ("e", None),
    ]
    assert names(found[5]) == [name for name in NAMES if name != "INFER_RESPONSE_COMPLETE"]
    assert names(found[1]) == ["REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END"]
    tensors = [(one["activity"], one["tensor"]["name"]) for one in found[2] if "activity" in one]
    assert tensors == [("TENSOR_QUEUE_INPUT", "IN"), ("TENSOR_BACKEND_OUTPUT", "OUT")]
    left = {one["model_name"]: names(found[id]) for id, one in about.items() if one["request_id"] == "left"}
    assert left.keys() == {"a", "inner", "e"}
    assert left["e"] == left["inner"] == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]


async def _leave_soon(scope):
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([1, -2], np.int8), "1,-2"),
        (np.array([True, False]), "1,0"),
        (np.array([1, 0.5, 1e-7, 123456789], np.float32), "1,0.5,1e-07,1.23457e+08"),
        (np.array([2**64 - 1], np.uint64), "18446744073709551615"),
        (np.array([1], np.float16), ""),
        (np.array([b'a"b', b"\xff"], object), '"a"b","\ufffd"'),
        (np.zeros([0], np.int32), ""),
    ],
)
def test_elements(array, text):
    """Goal: numbers as the reference server prints them, strings in quotes."""
    tensor = Tensor.of("x", array)
    memory = bytes(tensor.memory())
    assert data_text(CapturedTensor("A", "x", tensor.datatype, tuple(array.shape), memory)) == text


def test_bytes_that_are_no_elements():
    """Goal: a request's broken tensor costs its text, not the trace."""
    assert data_text(CapturedTensor("A", "x", "BYTES", (1,), b"\xff\xff\xff\xff")) == ""
    assert data_text(CapturedTensor("A", "x", "INT32", (1,), b"abc")) == ""
    assert data_text(CapturedTensor("A", "x", "NONE", (1,), b"abc")) == ""


def test_what_waits_is_bounded(tmp_path, monkeypatch, caplog):
    """Goal: traces beyond the bounds are dropped and said to be, and the ones before them are kept."""
    monkeypatch.setattr(trace_worker, "WAITING_BYTES_MAX", 100)
    tracer = Tracer(settings(tmp_path, level=["TENSORS"]), lambda _: True, lambda _: TraceFile(str(tmp_path / "t")))
    worker = tracer._worker = TraceWorker(TraceFile(str(tmp_path / "t")))
    for _ in range(3):
        trace = tracer.sample("m")
        trace.capture("A", Tensor.of("x", np.zeros(101, np.int8)))
        trace.finish()
    assert worker.dropped == 3
    assert "2 dropped so far" in caplog.text
    trace = tracer.sample("m")
    trace.capture("A", Tensor.of("x", np.zeros(3, np.int8)))
    trace.finish()
    tracer.close()
    assert list(traces(tmp_path / "t")) == [4]


def test_a_disk_that_fails_costs_traces_only(tmp_path, caplog):
    """Goal: the folder is gone: said in the log, and nothing is raised."""
    tracer = Tracer(settings(tmp_path), lambda _: True, lambda _: TraceFile(str(tmp_path / "gone" / "t")))
    trace = tracer.sample("m")
    trace.stamp("X")
    trace.finish()
    tracer.close()
    assert "cannot write 1 traces" in caplog.text


def test_a_full_disk_ends_well(caplog):
    """Goal: neither the traces nor the end of the file can be written: one line each, no traceback."""
    tracer = Tracer(settings(Path("/")), lambda _: True, lambda _: TraceFile("/dev/full"))
    trace = tracer.sample("m")
    trace.stamp("X")
    trace.finish()
    tracer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot write 1 traces to /dev/full: No space left on device",
        "cannot end /dev/full: No space left on device",
    ]
    assert not any(record.exc_info for record in caplog.records)
