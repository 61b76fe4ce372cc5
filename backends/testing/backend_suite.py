"""The tests that every backend must pass. A backend's own test file subclasses `BackendSuite`; pytest does the rest.

    from despina.testing import backend_suite

    class TestScale(backend_suite.BackendSuite):
        backend = "scale"
        def write_model(self, folder): ...
        def inputs(self, rows, seed): ...
        def expected(self, inputs): ...
        def bad_inputs(self): ...
        def write_identity(self, folder, datatype): ...

Everything is run by a real engine, on real time. What a backend does not have is left out by name:
`test_datatypes = None`. A method that is not written fails the tests that need it, and says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio
import trio.testing

from ...schema.fault import DeadlineExceeded, Fault, NotFound, NotLoaded, NotReady, ShuttingDown
from ...schema.tensor import Tensor
from .samples import same, sample, unaligned
from .tested_model import MODEL, Arrays, TestedModel
from .watch import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import numpy as np

    from ...engine.engine import Engine
    from .watch import Watch


class BackendSuite(TestedModel):
    """Subclass it in a test file, with a name that pytest collects, and write what TestedModel asks for."""

    # What a backend is

    def test_entry_point_brings_no_framework(self) -> None:
        """A server lists its backends without paying for any."""
        code = (
            "import sys; from despina.engine.repository.discovery import Backends; "
            f"backend = Backends().get({self.backend!r}); assert backend.name == {self.backend!r}, backend.name; "
            "assert backend.preferred_kind in (None, 'CPU', 'GPU', 'MODEL'); summary = backend.config_summary(); "
            "assert summary and '\\n' not in summary, summary; "
            f"found = {set(self.frameworks)!r} & set(sys.modules); assert not found, found"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=self.timeout_s)

    def test_a_version_without_files_is_refused(self, tmp_path: Path) -> None:
        """The load fails by a fault whose text says which model, or file, and nothing is left open."""

        async def main(engine: Engine, watch: Watch) -> None:
            shutil.rmtree(tmp_path / MODEL / "1")
            (tmp_path / MODEL / "1").mkdir()
            fault = await _fault_of(partial(engine.load, MODEL))
            assert MODEL in fault.message, fault.message
            assert "Error: " not in fault.message, f"an exception that nobody expected: {fault.message}"
            await self.see_gone(watch)

        self.run_engine(tmp_path, main, loads=False)

    def test_its_configuration_is_whole(self, tmp_path: Path) -> None:
        """Inputs and outputs are what requests have and get, and the configuration that was given is left as it was."""

        async def main(engine: Engine, watch: Watch) -> None:
            metadata = engine.model_metadata(MODEL)
            inputs = self.inputs(1, 0)
            assert {item.name for item in metadata.inputs} == set(inputs)
            assert {item.name for item in metadata.outputs} == set(self.expected(inputs))
            assert not watch.changed_configuration, "copy the configuration before you complete it"

        self.run_engine(tmp_path, main)

    # Answers

    def test_answers(self, tmp_path: Path) -> None:
        """They are the framework's own, for each size of request, and what was asked with is left as it was."""

        async def main(engine: Engine, _: Watch) -> None:
            for seed, rows in enumerate(self.rows):
                inputs = self.inputs(rows, seed)
                await self.ask(engine, inputs)
                for name, array in self.inputs(rows, seed).items():
                    assert same(inputs[name], array), f"the model wrote to input '{name}'"

        self.run_engine(tmp_path, main)

    def test_bytes_as_they_come_over_the_wire(self, tmp_path: Path) -> None:
        """Read-only, and not aligned to anything."""

        async def main(engine: Engine, _: Watch) -> None:
            for seed, rows in enumerate(self.rows):
                inputs = self.inputs(rows, seed)
                await self.ask(engine, inputs, {name: unaligned(name, array) for name, array in inputs.items()})

        self.run_engine(tmp_path, main)

    def test_outputs_that_are_asked_for(self, tmp_path: Path) -> None:
        """And no others."""

        async def main(engine: Engine, _: Watch) -> None:
            inputs = self.inputs(1, 0)
            for name in self.expected(inputs):
                result = await engine.infer(MODEL, inputs, outputs=[name])
                assert list(result) == [name]

        self.run_engine(tmp_path, main)

    def test_answers_are_not_written_to(self, tmp_path: Path) -> None:
        """What one request got stays as it was when later ones are executed, alone or together."""

        async def main(engine: Engine, _: Watch) -> None:
            kept = [(seed, await engine.infer(MODEL, self.inputs(1, seed))) for seed in range(8)]
            await self.ask_together(engine, range(8, 40))
            for seed, result in kept:
                self.check(result, self.expected(self.inputs(1, seed)))

        self.run_engine(tmp_path, main)

    def test_datatypes(self, tmp_path: Path) -> None:
        """Every value of every datatype comes back, in batches: extremes, infinities, empty and long strings."""
        assert self.datatypes, "datatypes: those that the backend takes, or test_datatypes = None"
        for datatype in self.datatypes:

            async def main(engine: Engine, watch: Watch, datatype: str = datatype) -> None:
                given = [sample(datatype, rows, 4, seed) for seed, rows in enumerate((1, 2, 1))]
                given.append(sample(datatype, 1, 4, 0))
                async with trio.open_nursery() as nursery:
                    for array in given:
                        nursery.start_soon(exchange, engine, array, datatype)
                    await watch.entered()
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    watch.let_go()

            async def exchange(engine: Engine, array: np.ndarray, datatype: str) -> None:
                result = await engine.infer(MODEL, {"x": Tensor.of("x", array, datatype)})
                assert result.tensor("y").datatype == datatype
                assert same(result["y"], array), f"{datatype}: sent {array.tolist()}, got {result['y'].tolist()}"

            folder = tmp_path / datatype
            self.run_engine(folder, main, holds=True, write=partial(self.write_identity, datatype=datatype))

    # Batches

    def test_requests_share_batches(self, tmp_path: Path) -> None:
        """Those that wait together are executed together, of whatever sizes, and each gets its own rows."""

        async def main(engine: Engine, watch: Watch) -> None:
            async with trio.open_nursery() as nursery:
                await self.hold_one(engine, watch, nursery)
                for seed, rows in enumerate(self.rows, 1):
                    nursery.start_soon(self.ask, engine, self.inputs(rows, seed))
                await trio.testing.wait_all_tasks_blocked(0.01)
                watch.let_go()
            (statistics,) = engine.statistics(MODEL)
            assert statistics.inference_count == 1 + sum(self.rows)
            assert max(map(len, watch.executed)) > 1, f"each was executed alone: {watch.executed}"

        self.run_engine(tmp_path, main, holds=True)

    def test_a_bad_request_does_not_spoil_its_neighbours(self, tmp_path: Path) -> None:
        """Of a batch, only the request that is to blame fails, by a fault with a text; the model goes on."""

        async def main(engine: Engine, watch: Watch) -> None:
            async with trio.open_nursery() as nursery:
                await self.hold_one(engine, watch, nursery)
                for seed in (1, 2):
                    nursery.start_soon(self.ask, engine, self.inputs(1, seed))
                nursery.start_soon(refused, engine)
                nursery.start_soon(self.ask, engine, self.inputs(1, 3))
                await trio.testing.wait_all_tasks_blocked(0.01)
                watch.let_go()
            await self.ask(engine, self.inputs(1, 4))
            (statistics,) = engine.statistics(MODEL)
            stats = statistics.inference_stats
            assert stats is not None
            assert stats.success is not None
            assert stats.fail is not None
            assert (stats.success.count, stats.fail.count) == (5, 1)

        async def refused(engine: Engine) -> None:
            fault = await _fault_of(partial(engine.infer, MODEL, self.bad_inputs()))
            assert fault.message

        self.run_engine(tmp_path, main, holds=True)

    def test_many_callers_of_several_instances(self, tmp_path: Path) -> None:
        """Each gets its own answer, once; instances execute at the same time."""

        async def main(engine: Engine, watch: Watch) -> None:
            watch.let_go()
            await self.ask_together(engine, range(120), callers=12)
            (statistics,) = engine.statistics(MODEL)
            stats = statistics.inference_stats
            assert stats is not None
            assert stats.success is not None
            assert stats.success.count == 120
            assert sorted(id for ids in watch.executed for id in ids) == sorted(str(seed) for seed in range(120))

        self.run_engine(tmp_path, main, holds=True, instances=3)

    # Leaving

    def test_leaving_the_queue(self, tmp_path: Path) -> None:
        """Who leaves while waiting is never executed; who came before and after is answered."""

        async def main(engine: Engine, watch: Watch) -> None:
            async with trio.open_nursery() as nursery:
                await self.hold_one(engine, watch, nursery)
                leaving = trio.CancelScope()
                nursery.start_soon(_within, leaving, partial(self.ask, engine, self.inputs(1, 1), id="leaves"))
                nursery.start_soon(partial(self.ask, engine, self.inputs(1, 2), id="stays"))
                await trio.testing.wait_all_tasks_blocked(0.01)
                leaving.cancel()
                await trio.testing.wait_all_tasks_blocked(0.01)
                watch.let_go()
            executed = [id for ids in watch.executed for id in ids]
            assert "stays" in executed
            assert "leaves" not in executed

        self.run_engine(tmp_path, main, holds=True)

    def test_leaving_under_way(self, tmp_path: Path) -> None:
        """Who leaves while executed goes at once, and who waits when its deadline passes; the next are answered."""

        async def main(engine: Engine, watch: Watch) -> None:
            async with trio.open_nursery() as nursery:
                leaving = trio.CancelScope()
                nursery.start_soon(_within, leaving, partial(self.ask, engine, self.inputs(1, 0)))
                await watch.entered()
                for seed, rows in enumerate(self.rows, 1):
                    nursery.start_soon(self.ask, engine, self.inputs(rows, seed))
                nursery.start_soon(late, engine)
                await trio.testing.wait_all_tasks_blocked(0.01)
                leaving.cancel()
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert leaving.cancelled_caught, "the caller did not get away"
                watch.let_go()
            await self.ask(engine, self.inputs(1, 9))

        async def late(engine: Engine) -> None:
            fault = await _fault_of(partial(engine.infer, MODEL, self.inputs(1, 8), timeout=0.02))
            assert isinstance(fault, DeadlineExceeded)

        self.run_engine(tmp_path, main, holds=True)

    # Unloading

    def test_unloading_while_requests_wait(self, tmp_path: Path) -> None:
        """Each is answered or told, once; then the model is gone, and nothing of it lives."""

        async def main(engine: Engine, watch: Watch) -> None:
            async with trio.open_nursery() as nursery:
                await self.hold_one(engine, watch, nursery)
                for seed, rows in enumerate(self.rows, 1):
                    nursery.start_soon(ask, engine, self.inputs(rows, seed))
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.start_soon(engine.unload, MODEL)
                await trio.testing.wait_all_tasks_blocked(0.01)
                watch.let_go()
            assert len(ends) == len(self.rows)
            assert not engine.is_model_ready(MODEL)
            await self.see_gone(watch)
            await engine.load(MODEL)
            await self.ask(engine, self.inputs(1, 0))

        async def ask(engine: Engine, inputs: Arrays) -> None:
            try:
                await self.ask(engine, inputs)
                ends.append("answered")
            except (ShuttingDown, NotReady, NotFound, NotLoaded):
                ends.append("told")

        ends: list[str] = []
        self.run_engine(tmp_path, main, holds=True)

    def test_memory_comes_back(self, tmp_path: Path) -> None:
        """Loaded, asked and unloaded again and again, a model leaves nothing: no object, and no growing process."""

        async def main(engine: Engine, watch: Watch) -> None:
            sizes = []
            for cycle in range(2 + self.cycles):
                await engine.load(MODEL)
                await self.ask_together(engine, range(cycle, cycle + 4))
                await engine.unload(MODEL)
                await self.see_gone(watch)
                sizes.append(resident_bytes())
            assert sizes[-1] - sizes[1] < self.growth_bytes_max, f"the process grew: {sizes}"

        self.run_engine(tmp_path, main, loads=False)


async def _within(scope: trio.CancelScope, call: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await call()


async def _fault_of(call: Callable[[], Awaitable[object]]) -> Fault:
    """Which must be raised."""
    try:
        await call()
    except Fault as fault:
        return fault
    raise AssertionError("no fault was raised")
