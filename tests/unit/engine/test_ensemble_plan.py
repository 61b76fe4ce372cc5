"""What an ensemble does for a request, without an engine: plans against a naive oracle, bounded steps, sequences."""

from __future__ import annotations

import pytest
from despina.engine.model.ensemble.graph import Graph, Step
from despina.engine.model.ensemble.places import Places
from despina.engine.model.ensemble.plan import OPENING, Progress, needed, plan_of
from despina.engine.model.ensemble.sequences import SequenceFacts, facts_in
from despina.engine.repository.ensembles import in_order
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def graphs(draw):
    """Graphs without circles, steps in any order in the configuration; and which of the steps are decoupled: none, or
    a chain of them such that all that a step reads comes of the same ones, as fit.py demands."""
    count = draw(st.integers(1, 8))
    inputs = [f"in{i}" for i in range(draw(st.integers(1, 3)))]
    stage_of = dict.fromkeys(inputs, 0)
    order, decoupled, last_stage = [], set(), 0
    for number in range(count):
        stage = draw(st.sampled_from(sorted({0, last_stage}))) if number else 0
        ends = stage == last_stage and draw(st.integers(0, 3)) == 0
        readable = [tensor for tensor, its in stage_of.items() if its == stage]
        reads = draw(st.lists(st.sampled_from(readable), min_size=1, max_size=3))
        outputs = [f"t{number}_{i}" for i in range(draw(st.integers(1, 2)))]
        stage_of |= dict.fromkeys(outputs, stage + 1 if ends else stage)
        if ends:
            decoupled.add(number)
            last_stage += 1
        order.append((reads, outputs))
    shuffled = draw(st.permutations(range(count)))
    steps = [
        Step(
            index=index,
            model_name=f"m{number}",
            model_version=-1,
            inputs=tuple((f"I{i}", tensor) for i, tensor in enumerate(order[number][0])),
            outputs=tuple((f"O{i}", tensor) for i, tensor in enumerate(order[number][1])),
            reads=frozenset(order[number][0]),
        )
        for index, number in enumerate(shuffled)
    ]
    ends = {index for index, number in enumerate(shuffled) if number in decoupled}
    written = [tensor for tensor, stage in stage_of.items() if stage == last_stage and tensor not in inputs]
    if not written:
        written = [tensor for tensor in stage_of if tensor not in inputs and stage_of[tensor] == 0] or inputs[:1]
    final = stage_of[written[0]]
    outputs = draw(st.lists(st.sampled_from([t for t in written if stage_of[t] == final]), min_size=1, unique=True))
    return Graph(inputs, outputs, steps), ends


def naive(graph, decoupled, wanted):
    """By recursion over what each tensor needs: the steps, and each one's stage, which is how many decoupled steps are
    on the way to what it reads."""
    by_tensor = {tensor: step for step in graph.steps for _, tensor in step.outputs}

    def stage(tensor):
        step = by_tensor.get(tensor)
        return 0 if step is None else max(map(stage, step.reads)) + (step.index in decoupled)

    def steps(tensor):
        step = by_tensor.get(tensor)
        return set() if step is None else {step.index}.union(*map(steps, step.reads))

    found = set().union(*map(steps, wanted))
    return {index: max(stage(tensor) for tensor in graph.steps[index].reads) for index in found}


@given(graphs(), st.data())
def test_plans_are_what_the_naive_oracle_says(drawn, data):
    """Goal: exactly the steps that the wanted outputs need, each in the stage of what it reads; run in any order, each
    begins once, when all that it reads is there, and no tensor is kept that nothing more needs."""
    graph, decoupled = drawn
    wanted = data.draw(st.lists(st.sampled_from(graph.outputs), unique=True))
    plan = plan_of(graph, decoupled, wanted)
    outputs = wanted or graph.outputs
    expected = naive(graph, decoupled, outputs)
    assert {step.index: depth for depth, stage in enumerate(plan.stages) for step in stage.steps} == expected
    assert [step.index for step in needed(graph, outputs)] == sorted(expected)
    there = dict.fromkeys(graph.inputs, "input")
    for depth, stage in enumerate(plan.stages):
        progress = Progress(stage)
        uses_left = [t for step in stage.steps for _, t in step.inputs]
        if stage.ending is None:
            uses_left += outputs
        ready, begun, opened = progress.give(OPENING, there.items()), [], {}
        while ready:
            step = ready.pop(data.draw(st.integers(0, len(ready) - 1)))
            begun.append(step.index)
            for _, tensor in step.inputs:
                progress.take(tensor)
                uses_left.remove(tensor)
            made = {tensor: f"by {step.index}" for _, tensor in step.outputs}
            if step.index in decoupled:
                assert step is stage.ending
                opened = made
            else:
                ready += progress.give(step.index, made.items())
            assert progress.there.keys() <= set(uses_left), "what nothing needs is let go"
        assert sorted(begun) == sorted(index for index, its in expected.items() if its == depth)
        there = opened
    for tensor in outputs:
        assert progress.take(tensor)
    assert not progress.there


class Entrant:
    def __init__(self, places, name, step=0, log=None):
        self.places, self.name, self.log = places, name, log
        self.step = Step(step, "m", -1, (), (), frozenset())
        self.over_at_once = False

    def begin(self):
        self.log.append(self.name)
        if self.over_at_once:
            self.places.leave(self)


def test_a_step_has_so_many_places_and_others_wait_in_order():
    """Goal: the bound is each step's own; who leaves the queue, or is over at once, lets the next in."""
    log = []
    places = Places(steps=2, limit=2)
    entrants = [Entrant(places, name, log=log) for name in range(6)]
    other = Entrant(places, "other", 1, log)
    assert [places.take(entrant) for entrant in entrants] == [True, True, False, False, False, False]
    assert places.take(other)
    assert places.waiting() == [4, 0]
    places.leave(entrants[3])  # does not wait any more
    entrants[2].over_at_once = True
    places.leave(entrants[0])
    assert log == [2, 4]
    assert places.waiting() == [1, 0]
    places.leave(entrants[1])
    places.leave(entrants[4])
    assert log == [2, 4, 5]
    places.leave(entrants[5])
    places.leave(entrants[5])  # twice is nothing more
    places.leave(other)
    assert places.take(Entrant(places, "late", log=log))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60), st.integers(1, 3))
def test_places_are_never_more_than_allowed_nor_left_empty(moves, limit):
    """Goal: whatever comes and goes, at most `limit` are in, and nobody waits while a place is free."""
    places = Places(1, limit)
    inside, waiting = [], []

    class One(Entrant):
        def begin(self):
            waiting.remove(self)
            inside.append(self)

    for which, comes in moves:
        if comes or not inside + waiting:
            one = One(places, which)
            (inside if places.take(one) else waiting).append(one)
        else:
            one = (inside + waiting)[which % len(inside + waiting)]
            (inside if one in inside else waiting).remove(one)
            places.leave(one)
        assert len(inside) <= limit
        assert not waiting or len(inside) == limit
        assert places.waiting() == [len(waiting)]


def test_what_an_answer_says_of_its_sequence():
    """Goal: what it does not say is the request's; other types are refused in the protocol's words."""
    request = InferenceRequest("m", {}, correlation_id=5, sequence_start=True)
    assert facts_in(None, request) is None
    assert facts_in({"other": 1}, request) is None
    assert facts_in({"sequence_id": "a"}, request) == SequenceFacts("a", True, False)
    assert facts_in({"sequence_end": True}, request) == SequenceFacts(5, True, True)
    for parameters, text in (
        (
            {"sequence_id": True},
            "expected parameter 'sequence_id' to be TRITONSERVER_PARAMETER_INT or TRITONSERVER_PARAMETER_STRING",
        ),
        ({"sequence_start": 1}, "expected parameter 'sequence_start' to be TRITONSERVER_PARAMETER_BOOL"),
        ({"sequence_end": "x"}, "expected parameter 'sequence_end' to be TRITONSERVER_PARAMETER_BOOL"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            facts_in(parameters, request)
        assert caught.value.message == text


def test_ensembles_are_loaded_behind_those_they_ask():
    """Goal: an order in which each comes behind what it asks; circles end, too."""
    assert in_order({"a": ["b", "m"], "b": ["c"], "c": ["n"]}) == ["c", "b", "a"]
    assert sorted(in_order({"a": ["b"], "b": ["a"], "c": ["a"]})) == ["a", "b", "c"]
    assert in_order({"a": ["b"], "b": ["a"], "c": ["a"]})[-1] == "c"
    assert in_order({}) == []
