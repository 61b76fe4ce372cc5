"""Which nested calls wait for themselves, against a naive oracle: what can happen happens, and what is left does."""

from __future__ import annotations

import random

import pytest
from despina.engine.waits import stuck


class Work:
    """A job: what it was executed for, as far as it matters."""

    is_held_up = False

    def __init__(self):
        self.children = set()


class Instance:
    def __init__(self):
        self.job = None


class Model:
    """So many instances; calls that wait are in `queue`."""

    def __init__(self, count):
        self.instances = [Instance() for _ in range(count)]
        self.queue = []

    def blockers(self, inference):
        for instance in self.instances:
            if instance.job is inference:
                return [(inference,)]
        busy = [(instance.job,) for instance in self.instances if instance.job is not None]
        return busy if len(busy) == len(self.instances) else ()


class Call:
    def __init__(self, model, parent, waits):
        self.served = model
        self.inference = Work()
        self.waits = waits
        self.parents = [parent]
        parent.children.add(self)


def history(seed):
    """Models whose instances work, and make calls, some of which are executed: (models, calls)."""
    drawn = random.Random(seed)
    models = [Model(drawn.randint(1, 2)) for _ in range(drawn.randint(1, 4))]
    calls = []
    for model in models:
        for instance in model.instances:
            if drawn.random() < 0.8:
                instance.job = Work()
    for _ in range(drawn.randint(1, 8)):
        working = [one.job for model in models for one in model.instances if one.job is not None]
        # Who stands still in a call makes no other.
        working = [job for job in working if not any(child.waits for child in job.children)]
        if not working:
            break
        call = Call(drawn.choice(models), drawn.choice(working), drawn.random() < 0.7)
        calls.append(call)
        free = [one for one in call.served.instances if one.job is None]
        if free:
            free[0].job = call.inference
    return models, calls


def left_by_oracle(models, calls, *, surely):
    """Ends what can end, one thing after the other, until nothing can: the calls that are left."""
    running = [one for model in models for one in model.instances]
    open_calls = list(calls)

    def holds(job):
        waited = [call for call in job.children if call.waits]
        made = waited if waited or surely else job.children
        return bool(made) and all(call in open_calls for call in made)  # one answer, and it may go on

    def executing(call):
        return any(one.job is call.inference for one in running)

    def answered(call):
        open_calls.remove(call)

    moved = True
    while moved:
        moved = False
        for one in running:
            if one.job is not None and not holds(one.job):
                for call in [call for call in open_calls if call.inference is one.job]:
                    answered(call)
                one.job, moved = None, True
        for call in list(open_calls):
            free = [one for one in call.served.instances if one.job is None]
            if free and not executing(call):
                answered(call)  # it is executed, and calls nobody itself
                moved = True
    return open_calls


@pytest.mark.parametrize("surely", [True, False])
def test_what_is_left_waits_for_itself(surely):
    """Goal: exactly those are found that nothing could ever answer."""
    found = 0
    for seed in range(3000):
        models, calls = history(seed)
        said = stuck(calls, surely=surely)
        expected = left_by_oracle(models, calls, surely=surely)
        assert said == expected, seed
        found += bool(said)
    assert found > 100, "the histories hold such calls"
