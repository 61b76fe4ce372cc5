"""What is to be done for a request that wants certain outputs, and in which order. Pure.

    graph ──wanted outputs──▶ Plan: the stages that are needed, of the steps that are needed
                               └─ Progress: of one stage, once for each answer that opens it

An ensemble of decoupled models has stages. What the inputs lead to is the first; a decoupled step ends it, and each of
its answers opens the next stage anew. All that a step reads is of one stage, and so are the outputs: see fit.py.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import attrs

from .graph import writers

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from .graph import Graph, Step


T = TypeVar("T")

OPENING: Final = -1
"""As a source: what opens a stage. Steps are sources by their index."""


@attrs.frozen
class Stage:
    """What is done once for each answer of the decoupled step before it; in the first, once."""

    steps: Sequence[Step]
    missing: Sequence[int]
    """For each step, how many sources it waits for."""
    followers: Mapping[int, Sequence[int]]
    """Source -> the steps that read of it, by their place in `steps`; none for one that only the answer reads."""
    needed: frozenset[str]
    """The tensors that a step or the answer reads."""
    uses: Mapping[str, int]
    """Tensor that is needed more than once -> how often: as inputs of steps, and by the answer."""
    ending: Step | None
    """The decoupled step that opens the next stage; None in the last."""


@attrs.frozen
class Plan:
    """For one choice of outputs."""

    stages: Sequence[Stage]


def plan_of(graph: Graph, decoupled: Container[int], wanted: Iterable[str]) -> Plan:
    """`decoupled` are the indices of the steps that may answer any number of times; no wanted outputs are all."""
    outputs = frozenset(wanted) or frozenset(graph.outputs)
    steps = needed(graph, outputs)
    stages: list[Stage] = []
    available = set(graph.inputs)
    while True:
        here, ending = _led_to(steps, available, decoupled)
        stages.append(_stage(here, ending, () if ending is not None else outputs))
        if ending is None:
            return Plan(stages)
        steps = [step for step in steps if step not in here]
        available = {tensor for _, tensor in ending.outputs}


def needed(graph: Graph, wanted: Iterable[str]) -> list[Step]:
    """The steps without which these outputs cannot be, in the configuration's order."""
    by_tensor = writers(graph.steps)
    found: set[int] = set()
    waiting = list(wanted)
    while waiting:
        step = by_tensor.get(waiting.pop())
        if step is not None and step.index not in found:
            found.add(step.index)
            waiting.extend(step.reads)
    return [step for step in graph.steps if step.index in found]


def _led_to(steps: Iterable[Step], available: set[str], decoupled: Container[int]) -> tuple[list[Step], Step | None]:
    """The steps that what is available leads to, none of it by a decoupled one; and which of them is decoupled."""
    here: list[Step] = []
    ending: Step | None = None
    waiting = list(steps)
    while ready := [step for step in waiting if step.reads <= available]:
        here += ready
        waiting = [step for step in waiting if step not in ready]
        for step in ready:
            if step.index in decoupled:
                assert ending is None, "what comes of two decoupled steps side by side is refused"
                ending = step
            else:
                available = available | {tensor for _, tensor in step.outputs}
    return here, ending


def _stage(steps: Sequence[Step], ending: Step | None, outputs: Iterable[str]) -> Stage:
    by_tensor = writers([step for step in steps if step is not ending])
    followers: dict[int, list[int]] = {}
    missing: list[int] = []
    uses = Counter(outputs)
    for place, step in enumerate(steps):
        sources = {by_tensor[tensor].index if tensor in by_tensor else OPENING for tensor in step.reads}
        for source in sources:
            followers.setdefault(source, []).append(place)
        missing.append(len(sources))
        uses.update(tensor for _, tensor in step.inputs)
    often = {tensor: count for tensor, count in uses.items() if count > 1}
    return Stage(steps, missing, followers, frozenset(uses), often, ending)


class Progress(Generic[T]):
    """Of one stage that was opened: what is there and still needed, and what can begin."""

    __slots__ = ("_missing", "_uses", "left", "stage", "there")

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._missing = list(stage.missing)
        self._uses = dict(stage.uses) if stage.uses else {}
        self.left = len(stage.steps)
        """Steps that are not over; for whoever ends them to count down."""
        self.there: dict[str, T] = {}

    def give(self, source: int, tensors: Iterable[tuple[str, T]]) -> list[Step]:
        """All that this source makes is there now; each is told of once. Returns the steps that can begin."""
        stage, missing, there = self.stage, self._missing, self.there
        needed = stage.needed
        for name, tensor in tensors:
            if name in needed:
                there[name] = tensor
        ready = []
        for place in stage.followers.get(source, ()):
            missing[place] -= 1
            if not missing[place]:
                ready.append(stage.steps[place])
        return ready

    def take(self, name: str) -> T:
        """For a step's input, or for the answer: what is there, which is let go when nothing else needs it."""
        left = self._uses.get(name, 1) - 1
        if not left:
            return self.there.pop(name)
        self._uses[name] = left
        return self.there[name]
