"""What is counted, against counting job by job."""

import random
import sys
import threading

import pytest
from despina.engine.observe import statistics
from despina.engine.observe.statistics import ModelStats
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.schema.fault import DeadlineExceeded, ModelFailure
from despina.schema.inference import InferenceRequest


def executed(dice, *, jobs_max=4, rows_max=5):
    """An execution of some jobs, of which some failed."""
    jobs = []
    for _ in range(dice.randint(1, jobs_max)):
        job = Job(InferenceRequest("m", {}), None)
        job.batch_size = dice.randint(1, rows_max)
        job.received_ns = dice.randrange(1000)
        job.fault = dice.choice([None] * 6 + [DeadlineExceeded("late"), ModelFailure("bad")])
        jobs.append(job)
    batch = Batch(jobs, sum(job.batch_size for job in jobs), dice.choice(["full", "eager", "delay"]))
    batch.started_ns = dice.randrange(1000, 2000)
    batch.inputs_ready_ns = dice.choice([0, batch.started_ns + 10])
    batch.ended_ns = batch.started_ns + dice.randrange(100, 200)
    batch.outputs_started_ns = dice.choice([0, batch.ended_ns - 20])
    return batch


@pytest.mark.parametrize("kinds_max", [1024, 5])
def test_sums_are_those_of_counting_one_by_one(monkeypatch, kinds_max):
    """Goal: what is worked out when somebody asks is what counting job by job gives, whenever it is asked."""
    monkeypatch.setattr(statistics, "_KINDS_MAX", kinds_max)
    dice = random.Random(5)
    stats = ModelStats()
    sums = dict.fromkeys(("success_count", "inference_count", "input_ns", "infer_ns", "output_ns", "fail_count"), 0)
    batches, reasons = {}, {}
    for count in range(1, 400):
        batch = executed(dice)
        stats.executed(batch)
        ready = batch.inputs_ready_ns or batch.started_ns
        outputs = batch.outputs_started_ns or batch.ended_ns
        spent = {
            "input_ns": ready - batch.started_ns,
            "infer_ns": outputs - ready,
            "output_ns": batch.ended_ns - outputs,
        }
        for job in batch.jobs:
            if job.fault is not None:
                sums["fail_count"] += 1
                continue
            sums["success_count"] += 1
            sums["inference_count"] += job.batch_size
            for name, ns in spent.items():
                sums[name] += ns
        row = batches.setdefault(batch.size, [0, 0, 0, 0])
        for place, more in enumerate((1, *spent.values())):
            row[place] += more
        reasons[batch.reason] = reasons.get(batch.reason, 0) + 1
        if count % 7 == 0:
            assert {name: getattr(stats, name) for name in sums} == sums
            assert stats.execution_count == count
            assert {rows: list(values) for rows, values in stats.batches.items()} == batches
            assert list(stats.batches) == sorted(batches)
            assert stats.batch_reasons == reasons
    total = ModelStats()
    total.add(stats)
    total.add(stats)
    assert {name: getattr(total, name) for name in sums} == {name: 2 * value for name, value in sums.items()}
    assert total.execution_count == 798


def test_executions_of_many_kinds_need_bounded_room():
    """Goal: clients who choose the rows of their requests do not make the statistics grow without end."""
    dice = random.Random(6)
    stats = ModelStats()
    for _ in range(8_000):
        stats.executed(executed(dice, jobs_max=60))
    assert len(stats._executions) <= 1024 + 300 * 3
    assert stats.execution_count == 8_000


def test_statistics_are_read_while_executions_are_counted():
    """Goal: a page of metrics made by another thread never fails because a batch of a new size was counted."""
    dice = random.Random(7)
    stats = ModelStats()
    batches = [executed(dice, jobs_max=40, rows_max=20) for _ in range(600)]
    problems = []
    over = threading.Event()

    def read():
        try:
            while not over.is_set():
                assert stats.success_count >= 0
                assert stats.infer_ns >= 0
                assert sum(stats.batch_reasons.values()) >= 0
                assert stats.batches is not None
        except Exception as problem:
            problems.append(problem)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for batch in batches:
            stats.executed(batch)
    finally:
        over.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert problems == []
