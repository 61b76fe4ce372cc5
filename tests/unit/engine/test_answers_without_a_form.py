"""Answers that have no wire form: faults of their own requests, where they are made, and nobody else's trouble."""

from __future__ import annotations

import json

import despina
import numpy as np
import pytest
import trio
from despina.engine.port.settings import TraceSettings
from despina.schema.fault import ModelFailure
from despina.schema.tensor import Tensor

from tests.fakes import FakeBackend, request, tensor_text, value_of, write_model

BYTES_OUT = tensor_text("input", "IN") + tensor_text("output", "OUT", "TYPE_STRING")


class Unspeakable:
    def __str__(self):
        raise ValueError("no words")


BAD = {1: "a\udc80b", 2: Unspeakable()}
"""What is answered to requests of these values; the others get a text."""


def outputs_of(job):
    value = int(job.request.inputs["IN"].numpy().ravel()[0])
    texts = np.empty((1, 1), object)
    texts[0, 0] = BAD.get(value, b"text")
    return [Tensor("OUT", "BYTES", (1, 1), array=texts)]


@pytest.fixture(params=["thread", "task"])
def backend(request):
    made = FakeBackend(asynchronous=request.param == "task")

    def execute(batch):
        for job in batch.jobs:
            job.respond(outputs_of(job))

    async def execute_async(batch):
        execute(batch)

    made.execute, made.execute_sync = execute_async, execute
    return made


@pytest.fixture
def traced(repository, backend, tmp_path):
    """An engine over the model `m` that traces everything; with `more` of its configuration."""

    def open_it(more):
        write_model(repository, "m", tensors=BYTES_OUT, more=more)
        trace = TraceSettings(level=["TIMESTAMPS", "TENSORS"], rate=1, file=str(tmp_path / "trace.json"))
        return despina.open_engine(repository, backends={"fake": backend}, trace=trace)

    return open_it


@pytest.mark.parametrize("value", list(BAD))
async def test_a_request_whose_answer_cannot_be_written(traced, backend, tmp_path, value):
    """It fails with the output's name and what is wrong with it; its neighbours in the batch are answered."""
    results = {}

    async def ask(number):
        try:
            results[number] = (await engine.infer_request(request(value=number))).outputs[0].numpy().item()
        except ModelFailure as fault:
            results[number] = fault

    async with traced("dynamic_batching { max_queue_delay_microseconds: 20000 preferred_batch_size: [3] }") as engine:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number in (7, value, 8):
                    nursery.start_soon(ask, number)
    assert results[7] == results[8] == b"text"
    assert results[value].message.startswith("output 'OUT' has no wire form: ")
    assert [len(ids) for ids in backend.ids] == [3]
    assert len({one["id"] for one in json.loads((tmp_path / "trace.json").read_text())}) == 3


@pytest.mark.parametrize("value", list(BAD))
async def test_a_stream_with_an_answer_that_cannot_be_written(traced, backend, value):
    """That answer is an error; those before and after it come."""

    def execute(batch):
        for job in batch.jobs:
            for number in (0, value, 0):
                job.request.inputs["IN"] = request(value=number).inputs["IN"]
                job.send(outputs_of(job))
            job.send(None, final=True)

    async def execute_async(batch):
        execute(batch)

    backend.execute, backend.execute_sync = execute_async, execute
    came = []
    async with traced("model_transaction_policy { decoupled: true }") as engine:
        over = trio.Event()

        def on_answer(job, answer):
            came.append(answer.fault.message if answer.fault else answer.response)
            if answer.final:
                over.set()
            else:
                job.consumed()

        engine.model("m").submit_stream(request(), on_answer)
        with trio.fail_after(10):
            await over.wait()
    assert [response.outputs[0].numpy().item() for response in (came[0], came[2])] == [b"text", b"text"]
    assert came[1].startswith("output 'OUT' has no wire form: ")


async def test_numbers_are_not_touched(opened, repository, backend):
    """Arrays of numbers keep the only form that they have: who is in this process needs no other."""
    made = []

    def execute(batch):
        for job in batch.jobs:
            made.append(Tensor.of("OUT", np.ones((1, 1), np.int32)))
            job.respond([made[-1]])

    async def execute_async(batch):
        execute(batch)

    backend.execute, backend.execute_sync = execute_async, execute
    write_model(repository, "m")
    async with opened() as engine:
        assert value_of(await engine.infer_request(request())) == 1
    assert [tensor.wire for tensor in made] == [None]
