"""What a backend's author says of the model that is tested, and how the suite runs it: in a real engine, watched."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import trio

from ...engine.opening import open_engine
from ...engine.port.groups import single
from ...engine.repository.discovery import Backends
from .samples import same
from .watch import Watch, WatchedBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from ...engine.engine import Engine
    from ...engine.port.backend import Backend

MODEL = "m"
Arrays = dict[str, np.ndarray]


class TestedModel:
    """Subclasses write what raises here."""

    backend: str = ""
    """As in `config.pbtxt`, and as the entry point is called."""
    backend_config: Mapping[str, str] = MappingProxyType({})
    frameworks: Sequence[str] = ()
    """Modules that may be imported only when a model needs them."""
    rows: Sequence[int] = (1, 3, 2, 1)
    """Of the requests that are sent together; the model's max_batch_size takes them all."""
    datatypes: Sequence[str] = ()
    """Names of the protocol, e.g. "FP32", for `write_identity`."""
    rtol: float = 1e-5
    cycles: int = 4
    """How often the model is loaded and unloaded to see whether memory comes back."""
    growth_bytes_max: int = 16 << 20
    """How much the process may grow over them: allocators keep some."""
    goes_within_s: float = 10.0
    """After an unload, nothing of the model lives any more."""
    timeout_s: float = 60.0
    """For each test."""
    instance_kind: str = "KIND_CPU"
    """Of the instances; the suite says how many there are, so `config.pbtxt` has no instance_group."""

    def write_model(self, folder: Path) -> None:
        """Writes `config.pbtxt` and `1/` into `folder`: a model that batches (dynamic_batching)."""
        raise NotImplementedError("write_model(folder): the model that is tested")

    def inputs(self, rows: int, seed: int) -> Arrays:
        """For one request; other seeds give other values."""
        raise NotImplementedError("inputs(rows, seed): arrays by the names of inputs")

    def expected(self, inputs: Arrays) -> Arrays:
        """What the framework itself answers."""
        raise NotImplementedError("expected(inputs): arrays by the names of outputs")

    def bad_inputs(self) -> Arrays:
        """Inputs for which the model fails, and that only the model can tell: names, datatypes and ranks are right."""
        raise NotImplementedError("bad_inputs(): a request that fails in the model")

    def write_identity(self, folder: Path, datatype: str) -> None:
        """Writes a model that batches and whose output y is its input x, both of dims [4] and this datatype."""
        raise NotImplementedError("write_identity(folder, datatype): a model that gives back what it gets")

    def found(self) -> Backend:
        """The backend; by default what the entry point of its name gives."""
        return Backends().get(self.backend)

    def run_engine(
        self,
        repository: Path,
        main: Callable[[Engine, Watch], Awaitable[None]],
        *,
        loads: bool = True,
        holds: bool = False,
        instances: int = 1,
        write: Callable[[Path], None] | None = None,
    ) -> None:
        """An engine over the model, `main` with it, within the time."""
        folder = repository / MODEL
        folder.mkdir(parents=True)
        (write or self.write_model)(folder)
        configuration = folder / "config.pbtxt"
        group = f"\ninstance_group [{{ count: {instances} kind: {self.instance_kind} }}]\n"
        configuration.write_text(configuration.read_text() + group)

        async def bounded() -> None:
            watch = Watch(holds=holds)
            with trio.fail_after(self.timeout_s):
                async with self._engine(repository, watch, loads=loads) as engine:
                    try:
                        await main(engine, watch)
                    finally:
                        watch.let_go()

        gc.freeze()  # what is there already need not be looked through each time that garbage is collected
        try:
            trio.run(bounded)
        except BaseExceptionGroup as group:  # of nurseries in between
            raise single(group) from None
        finally:
            gc.unfreeze()

    @asynccontextmanager
    async def _engine(self, repository: Path, watch: Watch, *, loads: bool) -> AsyncIterator[Engine]:
        backends: Mapping[str, Any] = {self.backend: WatchedBackend(self.found(), watch)}
        async with open_engine(
            repository,
            backends=backends,
            backend_config={self.backend: dict(self.backend_config)},
            model_control_mode="explicit",
            load_model=[MODEL] if loads else [],
        ) as engine:
            yield engine

    async def ask(
        self, engine: Engine, inputs: Arrays, sent: Mapping[str, object] | None = None, *, id: str = ""
    ) -> None:
        """One request, whose answer must be right."""
        expected = self.expected(inputs)
        self.check(await engine.infer(MODEL, inputs if sent is None else sent, request_id=id), expected)

    async def ask_together(self, engine: Engine, seeds: Sequence[int], *, callers: int = 8) -> None:
        """A request for each seed, of different sizes; each caller one after the other."""

        async def call(own: Sequence[int]) -> None:
            for seed in own:
                rows = self.rows[seed % len(self.rows)]
                await self.ask(engine, self.inputs(rows, seed), id=str(seed))

        async with trio.open_nursery() as nursery:
            for caller in range(callers):
                nursery.start_soon(call, seeds[caller::callers])

    async def hold_one(self, engine: Engine, watch: Watch, nursery: trio.Nursery) -> None:
        """Executes a request until `watch.let_go`, so that later ones wait."""
        nursery.start_soon(self.ask, engine, self.inputs(1, 0))
        await watch.entered()

    async def see_gone(self, watch: Watch) -> None:
        """Threads that end let go of what they had a moment later."""
        with trio.move_on_after(self.goes_within_s):
            while watch.living():  # noqa: ASYNC110  # objects that go tell nobody
                await trio.sleep(0.01)
        assert not watch.living(), f"unloaded, and these live: {watch.living()}"

    def check(self, result: Any, expected: Arrays) -> None:
        assert set(result) == set(expected)
        for name, array in expected.items():
            found = result[name]
            assert found.shape == array.shape, f"output '{name}': expected shape {array.shape}, got {found.shape}"
            if array.dtype.kind in "fc":
                np.testing.assert_allclose(found, array, rtol=self.rtol, atol=self.rtol, err_msg=name)
            else:
                assert same(found, array), f"output '{name}': expected {array.tolist()}, got {found.tolist()}"
