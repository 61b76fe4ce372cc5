"""The models of a history: what their configurations say, and what their executors do.

| backend  | executors                                                                          |
|----------|------------------------------------------------------------------------------------|
| awaited  | on the trio thread, with waits                                                     |
| threads  | on threads of their own                                                            |
| movable  | on threads of their own or inline, as the model's `DESPINA_EXECUTOR` and costs say |

Executions take time, raise, answer some, answer nobody, call sys.exit, die. Decoupled models answer while they execute
or afterwards, from threads that they start.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import trio
from despina.engine.port.backend import InstanceContext, InstanceKind, ModelContext
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.engine.request.stream import StreamJob
from despina.schema.fault import ExecutorDied, Fault, InvalidArgument
from despina.schema.tensor import Tensor

from tests.fakes import answer, chain, ensemble_text, tensor_text, touch, write_model
from tests.simulation.books import number_of

if TYPE_CHECKING:
    from tests.simulation.simulation import History

SCHEDULING = (
    "",
    "",
    "",
    "dynamic_batching {}",
    "dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 5000 }",
    "dynamic_batching { max_queue_delay_microseconds: 3000 default_queue_policy { max_queue_size: 6 } }",
    "dynamic_batching { preserve_ordering: true max_queue_delay_microseconds: 1000 "
    "default_queue_policy { default_timeout_microseconds: 9000 max_queue_size: 12 } }",
    "dynamic_batching { priority_levels: 3 default_priority_level: 2 max_queue_delay_microseconds: 2000 "
    "default_queue_policy { default_timeout_microseconds: 30000 allow_timeout_override: true max_queue_size: 8 } "
    "priority_queue_policy { key: 1 value { default_timeout_microseconds: 8000 } } }",
    "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
    "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 6000 } }",
    'dynamic_batching {} parameters { key: "MAX_BATCH_VOLUME_BYTES" value { string_value: "8" } }',
)
ONE_BY_ONE = (
    "",
    "dynamic_batching { default_queue_policy { default_timeout_microseconds: 9000 max_queue_size: 12 } }",
    "dynamic_batching { default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 6000 } }",
)
CONTROLS = """
control_input [
  { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
  { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }] }
]
state [{ input_name: "OLD" output_name: "NEW" data_type: TYPE_INT32 dims: [1] }]
"""
SEQUENCES = tuple(
    f"sequence_batching {{ max_sequence_idle_microseconds: {idle_us} {more} {CONTROLS} }}"
    for idle_us, more in (
        (3_000, ""),
        (30_000, ""),
        (300_000, "direct { max_queue_delay_microseconds: 3000 minimum_slot_utilization: 0.7 }"),
        (30_000, "oldest { max_candidate_sequences: 2 }"),
        (30_000, "oldest { max_candidate_sequences: 8 max_queue_delay_microseconds: 2000 }"),
        (30_000, "iterative_sequence: true"),
        (30_000, "iterative_sequence: true oldest { max_candidate_sequences: 8 }"),
    )
)
BACKENDS = ("awaited", "threads", "movable", "movable")
WARMUP = """
model_warmup [{ name: "one" batch_size: 1
  inputs { key: "IN" value { data_type: TYPE_INT32 dims: [1] zero_data: true } } }]
"""
RATES = (
    *[""] * 4,
    "rate_limiter { priority: 3 }",
    'rate_limiter { resources { name: "R" global: true count: 1 } }',
    'rate_limiter { resources { name: "R" global: true count: 1 } priority: 2 }',
    'rate_limiter { resources { name: "R" global: true count: 2 } }',
    'rate_limiter { resources { name: "R" global: true count: 1 } resources { name: "S" count: 1 } }',
    'rate_limiter { resources { name: "S" count: 1 } priority: 2 }',
    'rate_limiter { resources { name: "R" global: true count: 2 } resources { name: "S" count: 1 } priority: 4 }',
)
LIMITS = {"R": 2, "S": 1}
"""Of resources, where rates are limited."""
DECOUPLED = "model_transaction_policy { decoupled: true }"


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


class Writer:
    """Writes models into a repository, with ever newer time stamps."""

    def __init__(self, chance: random.Random, directory: Path, names: Sequence[str], *, pipelined: bool) -> None:
        """Of the models that may be written, ensembles begin with an e, others with an m. `pipelined`: their executors
        are given what they execute next while they execute."""
        self.pipelined = pipelined
        self.names = names
        self.chance = chance
        self.directory = directory
        self.touches = 0
        self._instances: dict[str, dict[str, Any]] = {}

    def write(self, name: str) -> None:
        if name.startswith("e"):
            self._write_ensemble(name)
            return
        chance = self.chance
        if self.pipelined:
            self._write_pipelined(name)
            return
        scheduling = chance.choice(SCHEDULING if chance.random() < 0.7 else SEQUENCES)
        more = [scheduling]
        if chance.random() < 0.5:
            more.append("version_policy { all {} }")
        if chance.random() < 0.25:
            more.append(DECOUPLED)
        if chance.random() < 0.2:
            more.append(WARMUP)
        more.append(parameter("DESPINA_EXECUTOR", chance.choice(["auto", "auto", "inline", "inline", "thread"])))
        more.append(parameter("PACE", chance.choice(["fast", "fast", "slow", "moody"])))
        more.append(parameter("HEALTH", chance.choice(["sound", "sound", "mortal"])))
        dims = chance.choice([(1,), (1,), (-1,)])
        options = {
            "max_batch_size": chance.choice([4, 8] if "preferred" in scheduling else [1, 4, 8]),
            "backend": chance.choice(BACKENDS),
            "more": "\n".join(more),
            "tensors": tensor_text("input", "IN", dims=dims) + tensor_text("output", "OUT", dims=dims),
            "group": chance.choice(RATES),
        }
        self._instances[name] = options
        versions = (1, 2) if chance.random() < 0.3 else (1,)
        write_model(self.directory, name, versions=versions, instances=chance.choice([1, 1, 2, 3]), **options)
        self.touch(name)

    def _write_pipelined(self, name: str) -> None:
        """One request at a time, in order of arrival."""
        chance = self.chance
        more = [chance.choice(ONE_BY_ONE)]
        more.append(parameter("PACE", chance.choice(["fast", "slow", "moody"])))
        more.append(parameter("HEALTH", chance.choice(["sound", "mortal"])))
        options = {"max_batch_size": 1, "backend": "awaited", "more": "\n".join(more)}
        self._instances[name] = options
        write_model(self.directory, name, instances=chance.choice([1, 1, 1, 2]), **options)
        self.touch(name)

    def _write_ensemble(self, name: str) -> None:
        """Of any models, and of ensembles before it."""
        chance = self.chance
        members = [one for one in self.names if one < name and one.startswith("e")]
        members += [one for one in self.names if one.startswith("m")] * 2
        text = ensemble_text(
            steps=chain(*chance.choices(members, k=chance.choice([1, 2, 2, 3]))),
            max_batch_size=chance.choice([1, 1, 1, 4]),
            max_inflight=chance.choice([0, 0, 1, 2]),
        )
        write_model(self.directory, name, config=text.replace("dims: [1]", "dims: [-1]"))
        self.touch(name)

    def change_instances(self, name: str) -> None:
        """The same again with another number of instances."""
        if name.startswith("e"):
            return
        write_model(self.directory, name, instances=self.chance.choice([1, 2, 3]), **self._instances[name])
        self.touch(name)

    def touch(self, name: str) -> None:
        """A configuration that only looks newer is no reason to open a model again, a version's directory is."""
        self.touches += 1
        touch(self.directory / name / self.chance.choice(["config.pbtxt", "1"]), self.touches)


@attrs.define
class Troubles:
    """What goes wrong when models and instances are opened; operators change it."""

    models: dict[tuple[str, int], BaseException] = attrs.field(factory=dict)
    """(model, version) -> what opening it raises."""
    instances: BaseException | None = None
    """What opening an instance raises."""


class Backend:
    """One of the three kinds."""

    preferred_kind: InstanceKind | None = None

    def __init__(self, history: History, name: str) -> None:
        self.history = history
        self.name = name
        self.opened: list[tuple[str, int]] = []
        self.closed: list[tuple[str, int]] = []
        self.instances_open = 0

    def open_model(self, context: ModelContext) -> Model:
        error = self.history.troubles.models.get((context.name, context.version))
        if error is not None:
            raise error
        self.opened.append((context.name, context.version))
        return Model(self, context)

    def config_summary(self) -> str:
        return "simulated"


class Model:
    def __init__(self, backend: Backend, context: ModelContext) -> None:
        self.backend = backend
        self.context = context
        self.config = context.config
        self.asynchronous = backend.name == "awaited"
        self.pace = self._parameter("PACE")
        self.mortal = self._parameter("HEALTH") == "mortal"
        self.chance = backend.history.chance

    def open_instance(self, context: InstanceContext) -> AwaitedExecutor | ThreadExecutor:
        if self.backend.history.troubles.instances is not None:
            raise self.backend.history.troubles.instances
        self.backend.instances_open += 1
        if not self.asynchronous:
            return ThreadExecutor(self, context)
        from tests.simulation.pipelined import PipelinedExecutor

        return (PipelinedExecutor if self.backend.history.pipelined else AwaitedExecutor)(self, context)

    def close(self) -> None:
        self.backend.closed.append((self.context.name, self.context.version))

    def time(self) -> float:
        """Seconds that the next execution takes."""
        pace, chance = self.pace, self.chance
        if pace == "moody":
            pace = "fast" if int(trio_time(self.backend.history) * 20) % 4 else "slow"
        if pace == "fast":
            return chance.choice([0, 0, 20e-6, 20e-6, 100e-6] * 20 + [0.02])
        return chance.choice([0, 0.001, 0.005, chance.expovariate(1 / 0.01)])

    def misbehave(self, batch: Batch) -> bool:
        """Raises, or fails some; True when that is all there is."""
        what = self.chance.random()
        if batch.reason == "warmup":
            what += 0.05
        if self.mortal and self.chance.random() < 0.04:
            if not self.asynchronous and self.backend.history.threads.current is None:
                self.backend.history.books.mix["instances: died inline"] += 1
            raise ExecutorDied("it is gone")
        if what < 0.05:
            raise RuntimeError("the model raised")
        if what < 0.06:
            raise SystemExit(1)
        if what < 0.1:
            return True
        if what < 0.15 and batch.reason != "warmup":
            self.chance.choice(batch.jobs).fail(InvalidArgument("not this one"))
        return False

    def _parameter(self, key: str) -> str:
        return self.config.parameters[key].string_value


def trio_time(history: History) -> float:
    return history.clock.current_time()


class Executor:
    """What holds for each: its executions do not overlap, and it is left alone once it has died or is closed."""

    def __init__(self, model: Model, context: InstanceContext) -> None:
        self.model = model
        self.history = model.backend.history
        self.needs = context.resources
        self.doing = "nothing"

    @contextmanager
    def executing(self, batch: Batch) -> Iterator[None]:
        with self.history.books.asserting():
            assert self.doing == "nothing", f"executed while it does {self.doing}"
        self.doing = "an execution"
        self.history.note_execution(batch)
        try:
            with self.history.using(() if batch.reason == "warmup" else self.needs):
                yield
            self.doing = "nothing"
        except ExecutorDied:
            self.doing = "nothing any more"
            raise
        except BaseException:
            self.doing = "nothing"
            raise

    def remember(self, batch: Batch) -> list[Job]:
        """Keeps some states of sequences, and releases some requests to be executed once more, which it returns."""
        chance, batching = self.model.chance, self.model.config.sequence_batching
        going_on: list[Job] = []
        if batching is None:
            return going_on
        for job in batch.jobs:
            if chance.random() < 0.7:
                job.set_state("NEW", Tensor.of("NEW", np.full((1, 1), number_of(job), np.int32)))
                self.history.books.keep(job)
            if batching.iterative_sequence and chance.random() < 0.4:
                job.reschedule()
                going_on.append(job)
        return going_on

    def close(self) -> None:
        self.history.threads.interrupt()
        with self.history.books.asserting():
            assert self.doing.startswith("nothing"), f"closed while it does {self.doing}"
        self.doing = "closed"
        self.model.backend.instances_open -= 1


class AwaitedExecutor(Executor):
    async def open(self, nursery: trio.Nursery) -> None:
        pass

    async def aclose(self) -> None:
        self.close()

    async def execute_async(self, batch: Batch) -> None:
        with self.executing(batch):
            await self._execute(batch)

    async def _execute(self, batch: Batch) -> None:
        await trio.sleep(self.model.time())
        going_on = self.remember(batch)
        for job in batch.jobs:
            if isinstance(job, StreamJob) and job not in going_on:
                await self._speak(job)
        if not self.model.misbehave(batch) and not isinstance(batch.jobs[0], StreamJob):
            answer(batch, but=going_on)

    async def _speak(self, job: StreamJob) -> None:
        speech = Speech(self.model, job)
        if self.model.chance.random() < 0.3:
            self.history.threads.start(partial(speech.say_all, self.history), "speaker")
            return
        for said in speech.lines():
            await trio.sleep(said.pause_s)
            if said.fault is None or not said.final:  # an error that must wait for credit cannot be sent here
                wanted = await job.send_async(said.outputs(job), {"index": said.index}, final=said.final)
            else:
                wanted = job.send_fault(said.fault, final=True)
            if not speech.goes_on(said, wanted):
                break
        speech.end()


class ThreadExecutor(Executor):
    def __init__(self, model: Model, context: InstanceContext) -> None:
        super().__init__(model, context)
        self.movable = model.backend.name == "movable"

    def execute(self, batch: Batch) -> None:
        with self.executing(batch):
            self._execute(batch)

    def _execute(self, batch: Batch) -> None:
        history = self.history
        history.threads.work(self.model.time())
        going_on = self.remember(batch)
        for job in batch.jobs:
            if isinstance(job, StreamJob) and job not in going_on:
                speech = Speech(self.model, job)
                if self.model.chance.random() < 0.5:
                    speech.say_all(history)
                else:
                    history.threads.start(partial(speech.say_all, history), "speaker")
        if not self.model.misbehave(batch) and not isinstance(batch.jobs[0], StreamJob):
            answer(batch, but=going_on)


@attrs.define
class Said:
    """One answer of a stream."""

    index: int
    pause_s: float
    fault: Fault | None
    final: bool
    empty: bool = False

    def outputs(self, job: StreamJob) -> list[Tensor] | None:
        if self.empty:
            return None
        return [Tensor.of("OUT", np.full((1, 1), number_of(job), np.int32))]


class Speech:
    """What a model says in one stream, and how it ends."""

    def __init__(self, model: Model, job: StreamJob) -> None:
        self.chance = model.chance
        self.job = job
        self.account = model.backend.history.books.accounts.get(job)
        self.polite = self.chance.random() < 0.7
        """It stops when nobody listens any more."""
        self.ending = self.chance.choice(["empty", "empty", "response", "fault", "close", "close with a fault"])

    def lines(self) -> Iterator[Said]:
        chance = self.chance
        pace_s = chance.choice([0, 0, 0.0005, 0.003])
        count = chance.choice([0, 1, 2, 3, 8, 20])
        for index in range(count):
            fault = InvalidArgument(f"answer {index}") if chance.random() < 0.03 else None
            yield Said(index, chance.uniform(0, 2 * pace_s), fault, False)
        if not self.ending.startswith("close"):
            fault = InvalidArgument(f"answer {count}") if self.ending == "fault" else None
            yield Said(count, 0, fault, True, self.ending == "empty")

    def say_all(self, history: History) -> None:
        job = self.job
        for said in self.lines():
            history.threads.work(said.pause_s)
            if said.fault is None:
                wanted = job.send(said.outputs(job), {"index": said.index}, final=said.final)
            else:
                wanted = job.send_fault(said.fault, final=said.final)
            if not self.goes_on(said, wanted):
                break
        history.threads.interrupt()
        self.end()

    def goes_on(self, said: Said, wanted: bool) -> bool:
        if wanted and not said.empty and self.account is not None:
            self.account.sent += 1
        return wanted or not self.polite

    def end(self) -> None:
        """Whatever was said before: nothing follows."""
        self.job.close(InvalidArgument("the model is tired") if self.ending == "close with a fault" else None)
