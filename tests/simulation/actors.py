"""Who asks for something in a history.

| actor           | does                                                                                            |
|-----------------|-------------------------------------------------------------------------------------------------|
| caller          | requests one after the other in process; some leave early, streams are read slowly or given up  |
| door            | passes: several requests at once, told by callbacks; cancels, consumes streams, asks again      |
| operator        | reload, unload, broken loads, other instances, troubles when something is opened                |
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import trio
from despina.engine.engine import Engine
from despina.engine.port.caller import LoadWait
from despina.engine.request.job import Job
from despina.engine.request.stream import Answer, StreamJob
from despina.schema.fault import Fault, InvalidArgument, NotLoaded
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor

if TYPE_CHECKING:
    from tests.simulation.simulation import History


class Asking:
    """What callers and doors have in common."""

    def __init__(self, history: History, engine: Engine) -> None:
        self.history = history
        self.engine = engine
        self.chance = history.chance
        self.mix = history.books.mix

    async def pause(self, factor: float) -> None:
        """Between two requests."""
        mean_s = factor * self.history.pause_s
        await trio.sleep(self.chance.expovariate(1 / mean_s) if mean_s else 0)

    def request(self, name: str | None = None) -> InferenceRequest:
        """To any model, if it is not named."""
        chance = self.chance
        options: dict[str, Any] = {"priority": chance.choice([0, 0, 1, 2, 3, 9])}
        if chance.random() < 0.7:
            options["parameters"] = {"who": chance.choice("aaaaabc")}
        if chance.random() < 0.2:
            options["timeout_us"] = chance.choice([1, 2000, 10_000_000])
        if chance.random() < 0.1:
            options["model_version"] = chance.choice([1, 2, 3])
        if name is None:
            name = chance.choice(self.history.names) if chance.random() < 0.97 else "nobody"
        rows = chance.choice([1] * 12 + [2, 2, 3, 4, 9])
        columns = chance.choice([1] * 9 + [2])  # only some models take two
        if chance.random() < 0.9 and self.history.has_sequences(self.engine, name):
            rows = columns = 1
            options["correlation_id"] = chance.choice([0, 1, 1, 2, 2, 3, 4, 5, 6])
            options["sequence_start"] = chance.random() < 0.35
            options["sequence_end"] = chance.random() < 0.2
        number = np.full((rows, columns), self.history.next_number(), np.int32)
        return InferenceRequest(name, {"IN": Tensor.of("IN", number)}, **options)

    def deadline(self) -> float:
        return trio.current_time() + self.chance.uniform(-0.001, 0.05) if self.chance.random() < 0.3 else 0.0

    def patience_s(self) -> float:
        return self.chance.uniform(0, 0.03) if self.chance.random() < 0.3 else float("inf")

    def refused(self, fault: Fault) -> None:
        self.mix[f"callers: {type(fault).__name__}"] += 1
        if "must specify the START flag" in fault.message:
            self.mix["sequences: never begun"] += 1


async def caller(history: History, engine: Engine) -> None:
    """In process."""
    chance = history.chance
    asking = Asking(history, engine)
    for _ in range(chance.randint(10, 80)):
        await asking.pause(1)
        ask, deadline = asking.request(), asking.deadline()
        with trio.move_on_after(asking.patience_s()):
            try:
                if history.is_decoupled(engine, ask):
                    await _read_stream(asking, ask, deadline)
                else:
                    await engine.infer_request(ask, deadline=deadline)
                asking.mix["callers: answered"] += 1
            except Fault as fault:
                asking.refused(fault)


async def _read_stream(asking: Asking, ask: InferenceRequest, deadline: float) -> None:
    chance = asking.chance
    pace_s = chance.choice([0, 0, 0.001, 0.01])
    enough = chance.choice([1, 5, 1000, 1000, 1000])
    async with aclosing(asking.engine.stream_request(ask, deadline=deadline)) as responses:
        async for _ in responses:
            await trio.sleep(chance.uniform(0, 2 * pace_s))
            enough -= 1
            if not enough:
                return


class Asked:
    """One request of a door's that was accepted."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.ended = trio.Event()
        self.job: Job | LoadWait | None = None
        """None until `submit` has returned."""
        self.unconsumed = 0
        chance = door.chance
        self.consumes = chance.choice(["at once", "later", "never"])

    def done(self, job: Job) -> None:
        self.door.mix["callers: answered" if job.fault is None else f"callers: {type(job.fault).__name__}"] += 1
        self.ended.set()
        if self.door.chance.random() < 0.2:
            # From within the callback, as a door does whose client pipelines.
            self.door.ask(self.door.chance.choice([job.request.model_name, None]))

    def answer(self, job: StreamJob, answer: Answer) -> None:
        if answer.final:
            self.done(job)
        elif self.consumes == "at once":
            job.consumed()
        else:
            self.unconsumed += 1

    def leave(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self.ended.set()

    async def follow(self) -> None:
        """Until it has ended. Nobody waits for ever: without consuming, only for a while."""
        chance = self.door.chance
        patience_s = chance.uniform(0, 0.05) if self.consumes == "never" else self.door.patience_s()
        with trio.move_on_after(patience_s):
            while not self.ended.is_set():
                with trio.move_on_after(0.002 if self.consumes == "later" else float("inf")):
                    await self.ended.wait()
                if self.consumes == "later" and self.unconsumed and isinstance(self.job, StreamJob):
                    count = chance.randint(1, self.unconsumed)
                    self.unconsumed -= count
                    self.job.consumed(count)
        if not self.ended.is_set():
            self.leave()


class Door(Asking):
    """A connection, and the loop that serves it."""

    def __init__(self, history: History, engine: Engine, nursery: trio.Nursery) -> None:
        super().__init__(history, engine)
        self.nursery = nursery

    async def run(self) -> None:
        chance = self.chance
        for _ in range(chance.randint(5, 25)):
            await self.pause(2)
            with self.history.placing("inline in a pass"):
                self.engine.inline.begin_pass()
                asked = [self.ask() for _ in range(chance.choice([1, 1, 2, 3, 6]))]
                if chance.random() < 0.1:
                    for one in asked:
                        if one is not None:
                            one.leave()  # the connection breaks within the pass
                self.engine.inline.end_pass()

    def ask(self, name: str | None = None) -> Asked | None:
        """None if it was refused."""
        ask, deadline = self.request(name), self.deadline()
        asked = Asked(self)
        try:
            self._submit(asked, ask, deadline)
        except Fault as fault:
            self.refused(fault)
            return None
        if not asked.ended.is_set():
            self.nursery.start_soon(asked.follow)
        return asked

    def _submit(self, asked: Asked, ask: InferenceRequest, deadline: float) -> None:
        try:
            model = self.engine.model(ask.model_name, ask.model_version)
        except NotLoaded as fault:
            asked.job = self.engine.when_loaded(fault.model_name, partial(self._again, asked, ask, deadline), deadline)
            return
        if model.decoupled:
            asked.job = model.submit_stream(ask, asked.answer, deadline)
        else:
            asked.job = model.submit(ask, asked.done, deadline)

    def _again(self, asked: Asked, ask: InferenceRequest, deadline: float, fault: Fault | None) -> None:
        self.mix["loads: waited for" if fault is None else "loads: waited for, in vain"] += 1
        try:
            if fault is not None:
                raise fault
            self._submit(asked, ask, deadline)
        except Fault as refusal:
            self.refused(refusal)
            asked.ended.set()


async def door(history: History, engine: Engine) -> None:
    async with trio.open_nursery() as nursery:
        await Door(history, engine, nursery).run()


async def operator(history: History, engine: Engine) -> None:
    chance, troubles = history.chance, history.troubles
    for _ in range(chance.randint(1, 10)):
        await trio.sleep(chance.expovariate(1 / 0.02))
        name = chance.choice([*history.names, "nobody"])
        what = chance.random()
        troubles.models.clear()
        troubles.instances = MemoryError("no memory on the device") if chance.random() < 0.1 else None
        if what > 0.7:
            troubles.models[name, chance.choice([1, 2])] = chance.choice(
                [RuntimeError("boom"), InvalidArgument("bad file"), SystemExit(1)]
            )
        with trio.move_on_after(chance.uniform(0, 0.02) if chance.random() < 0.2 else float("inf")):
            try:
                if what < 0.15:
                    await engine.unload(name)
                    await trio.sleep(chance.choice([0, 0.005]))
                    await engine.load(name)
                    history.books.mix["loads: back after an unload"] += 1
                elif what < 0.2:
                    await engine.unload(name)
                    history.books.mix["loads: unload"] += 1
                elif what < 0.25:
                    await engine.load(name, config="{")
                else:
                    if name != "nobody":
                        chance.choice([history.models.write, history.models.touch, history.models.change_instances])(
                            name
                        )
                    await engine.load(name)
                    history.books.mix["loads: reload"] += 1
            except Fault as fault:
                history.books.mix[f"loads: {type(fault).__name__}"] += 1
