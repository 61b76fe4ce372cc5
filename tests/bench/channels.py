"""What a request costs inside the engine: by calls, as it is built, and by memory channels, as an actor engine would.

    python tests/bench/channels.py

Both ways carry the same requests to the same model, which answers with its input:

    calls       caller ── submit ──▶ scheduler ──▶ instance, in the same breath ──▶ the caller's task is woken
    channels    caller ──channel──▶ batcher actor ──channel──▶ instance actor ── the request's event ──▶ caller

Prints CPU µs a request of the whole process. Answers are checked.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import despina
import numpy as np
import trio
from despina.engine.model.version import ModelVersion
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor

CALLERS = (1, 8, 64)
SECONDS = 1.0
TURNS = 3
CONFIG = """backend: "echo" max_batch_size: 64 dynamic_batching {}
input [{ name: "IN" data_type: TYPE_UINT8 dims: [1024] }] output [{ name: "OUT" data_type: TYPE_UINT8 dims: [1024] }]
parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }
"""


def answer(batch: Batch) -> None:
    """The model."""
    for job in batch.jobs:
        tensor = job.request.inputs["IN"]
        job.respond([Tensor("OUT", tensor.datatype, tensor.shape, tensor.memory())])


class Echo:
    """A backend, a model and an instance in one."""

    name, preferred_kind, movable = "echo", None, True
    config: Any

    def open_model(self, context: Any) -> Echo:
        self.config = context.config
        return self

    def config_summary(self) -> str:
        return ""

    def open_instance(self, _: Any) -> Echo:
        return self

    def execute(self, batch: Batch) -> None:
        answer(batch)

    def close(self) -> None: ...


class Actors:
    """The same engine as two actors and their channels: jobs are admitted, and executions counted, as by the other."""

    def __init__(self, model: ModelVersion) -> None:
        self._model = model
        self._requests, self._inbox = trio.open_memory_channel[Job](1000)
        self._batches, self._work = trio.open_memory_channel[Batch](1)

    async def batcher(self) -> None:
        """Forms batches of what waits."""
        async for job in self._inbox:
            jobs = [job]
            while len(jobs) < 64:
                try:
                    jobs.append(self._inbox.receive_nowait())
                except trio.WouldBlock:
                    break
            await self._batches.send(Batch(jobs, len(jobs), "eager"))

    async def instance(self) -> None:
        """Executes them."""
        async for batch in self._work:
            batch.begin()
            answer(batch)
            batch.settle(None)
            self._model.statistics.executed(batch)
            for job in batch.jobs:
                job.on_done(job)  # type: ignore[misc]  # nobody leaves here

    async def infer(self, asked: InferenceRequest) -> bytes:
        """One request."""
        done = trio.Event()
        job = Job(asked, lambda _: done.set())
        job.ledger = self._model.ledger
        self._model.admission.admit(job)
        job.received_ns = time.monotonic_ns()
        await self._requests.send(job)
        await done.wait()
        return bytes(job.response.outputs[0].memory())  # type: ignore[union-attr]


def request() -> InferenceRequest:
    """The next request."""
    return InferenceRequest("m", {"IN": Tensor("IN", "UINT8", (1, 1024), DATA)})


DATA = np.arange(1024, dtype=np.uint8).tobytes()


async def measured(infer: Any, callers: int, seconds: float) -> float:
    """CPU µs a request."""
    done = 0

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < until or not done:
            assert await infer(request()) == DATA
            done += 1

    until = time.perf_counter() + seconds
    began = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(call)
    return (time.process_time() - began) / done * 1e6


async def main(seconds: float = SECONDS) -> None:
    """Prints the table."""
    print("| callers | calls | channels |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        (path / "1").mkdir(parents=True)
        (path / "config.pbtxt").write_text(CONFIG)
        async with despina.open_engine(folder, backends={"echo": Echo()}) as engine, trio.open_nursery() as nursery:
            actors = Actors(engine.model("m"))
            nursery.start_soon(actors.batcher)
            nursery.start_soon(actors.instance)

            async def by_calls(asked: InferenceRequest) -> bytes:
                return bytes((await engine.infer_request(asked)).outputs[0].memory())

            for callers in CALLERS:
                turns = [
                    [await measured(way, callers, seconds) for way in (by_calls, actors.infer)] for _ in range(TURNS)
                ]
                cells = [f"{median(costs):.1f}" for costs in zip(*turns, strict=True)]
                print(f"| {callers} | " + " | ".join(cells) + " |", flush=True)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
