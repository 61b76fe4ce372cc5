"""The engine without doors: callers are tasks in this process, so its CPU is the whole cost of a request.

Each model is forced onto either executor in turn; every answer is checked, by its bytes where they are those of an
answer that was verified.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import despina
import trio

from tests import in_process
from tests.bench.cases import Case, known_cases
from tests.bench.load import Measured, WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLERS = (1, 8, 64)
CASES = ("ONNX add/sub", "identity 1 KiB", "ONNX MLP, batching")


def measure_engine(models: Path, seconds: float) -> Iterator[tuple[str, str, list[Measured]]]:
    """(case, executor, figures at 1, 8 and 64 callers); the executor is forced by a model parameter."""
    for name in CASES:
        for executor in ("inline", "thread"):
            yield name, executor, trio.run(measure_case, models, name, executor, seconds)


async def measure_case(models: Path, name: str, executor: str, seconds: float) -> list[Measured]:
    """One case at each number of callers."""
    case = known_cases()[name]
    folder = trio.Path(models) / case.model
    text = await (folder / "config.pbtxt").read_text()
    forced = f'{text}\nparameters {{ key: "DESPINA_EXECUTOR" value: {{ string_value: "{executor}" }} }}\n'
    await (folder / "config.pbtxt").write_text(forced)
    try:
        async with despina.open_engine(
            models, backend_config=in_process.SETTING, model_control_mode="explicit", load_model=[case.model]
        ) as engine:
            return [await measure_callers(engine, case, callers, seconds) for callers in CALLERS]
    finally:
        await (folder / "config.pbtxt").write_text(text)


async def measure_callers(engine: despina.Engine, case: Case, callers: int, seconds: float) -> Measured:
    """Each caller asks again as soon as it has its answer. Every answer is checked."""
    answered = 0
    right: dict[str, bytes] = {}

    async def call() -> None:
        nonlocal answered
        while True:
            result = await engine.infer(case.model, case.inputs)
            for output in case.outputs:
                if result[output].tobytes() != right.get(output):
                    complaint = case.check({name: result[name] for name in case.outputs})
                    if complaint is not None:
                        raise WrongAnswer(complaint)
                    right[output] = result[output].tobytes()
            answered += 1

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(call)
        await trio.sleep(min(0.2, seconds / 4))
        before, start, cpu = answered, time.perf_counter(), time.process_time()
        await trio.sleep(seconds)
        count, spent, used = answered - before, time.perf_counter() - start, time.process_time() - cpu
        nursery.cancel_scope.cancel()
    return Measured(count, spent, used / max(count, 1) * 1e6)
