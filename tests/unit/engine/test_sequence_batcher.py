"""The sequence batcher by itself, against books kept naively: order, slots, backlog, and that nothing is lost."""

import pytest
from despina.engine.request.job import Job, JobState
from despina.engine.schedule.choice import scheduler_of
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest
from despina.schema.model_config import parse_config
from despina.schema.tensor import Tensor
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

IDLE_S = 1.0
OWNERS = ("x", "y")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def made(strategy, rows):
    text = (
        f'name: "m" backend: "b" max_batch_size: {rows} sequence_batching {{ '
        f"max_sequence_idle_microseconds: {int(IDLE_S * 1e6)} {strategy} control_input [{{ name: 'READY' "
        "control [{ kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }] }] }"
    )
    clock = Clock()
    return scheduler_of(parse_config(text.encode()), 1000, clock), clock


class Story:
    """What the oracle knows of one sequence."""

    def __init__(self, id):
        self.id = id
        self.waiting = []
        self.owner = None
        self.over = False
        """Nothing may come of it any more."""


class Sequences(RuleBasedStateMachine):
    @initialize(
        rows=st.integers(1, 3), strategy=st.sampled_from(["", "direct {}", "oldest { max_candidate_sequences: 2 }"])
    )
    def begin(self, rows, strategy):
        self.batcher, self.clock = made(strategy, rows)
        self.oldest = "oldest" in strategy
        self.slots = 2 if self.oldest else rows
        self.batcher.refuse = self.refused
        self.stories = {}
        """Id -> the sequence that goes on."""
        self.everything = []
        self.story_of = {}
        self.number = 0
        self.working = dict.fromkeys(OWNERS, False)
        self.told = []
        for owner in OWNERS:
            assert self.batcher.take(owner, 0.0)[0] is None

    def refused(self, jobs):
        for job in jobs:
            assert job.state is JobState.REJECTED
            assert job.fault is not None
            story = self.story_of[job]
            assert story.waiting.pop(0) is job
            self.told.append(job)

    @rule(id=st.integers(1, 5), start=st.booleans(), end=st.sampled_from([False, False, True]))
    def put(self, id, start, end):
        inputs = {"IN": Tensor("IN", "INT32", (1, 1), b"\1\0\0\0")}
        job = Job(
            InferenceRequest("m", inputs, correlation_id=id, sequence_start=start, sequence_end=end), lambda _: None
        )
        self.number += 1
        job.received_ns, job.queued_at = self.number, self.clock.now
        story = self.stories.get(id)
        if story is None and not start:
            with pytest.raises(InvalidArgument, match="START flag"):
                self.batcher.put(job)
            return
        started = self.batcher.put(job)
        if story is None:
            story = self.stories[id] = Story(id)
            self.everything.append(story)
        story.waiting.append(job)
        self.story_of[job] = story
        if end:
            del self.stories[id]
        if started is not None:
            assert not self.working[started]
            self.work(started)

    @rule(owner=st.sampled_from(OWNERS))
    def finish(self, owner):
        """An instance that works has finished its batch, and looks for the next."""
        if self.working[owner]:
            self.work(owner)

    @rule(data=st.data())
    def leave(self, data):
        waiting = [job for story in self.everything for job in story.waiting]
        if not waiting:
            return
        job = data.draw(st.sampled_from(waiting))
        story = self.story_of[job]
        story.waiting.remove(job)
        self.told.append(job)
        assert self.batcher.leave(job, JobState.CANCELLED)
        assert not story.waiting, "all of it was refused"
        if self.stories.get(story.id) is story:
            del self.stories[story.id]
        self.look()

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0]))
    def time_passes(self, seconds):
        self.clock.now += seconds
        self.look()

    def look(self):
        while (owner := self.batcher.wake()) is not None:
            assert not self.working[owner]
            self.work(owner)
        placed = self.batcher._slots.placed
        for id, story in list(self.stories.items()):
            active = self.batcher._slots.active.get(id)
            if active is None:  # silent too long
                assert not story.waiting
                del self.stories[id]
            else:
                assert active in placed or active in self.batcher._slots.backlog

    def work(self, owner):
        batch, late, _ = self.batcher.take(owner, 0.0)
        assert late == []
        self.working[owner] = batch is not None
        if batch is None:
            return
        assert 1 <= len(batch.jobs) <= max(self.slots, 3)
        real = [job for job in batch.jobs if job.received_ns]
        assert real, "a batch for nobody"
        assert batch.jobs[-1].received_ns, "a null request above the highest ready one"
        assert not self.oldest or len(real) == len(batch.jobs)
        assert len({self.story_of[job] for job in real}) == len(real), "two of one sequence"
        for job in batch.jobs:
            assert job.request.inputs["READY"].numpy().ravel()[0] == (1 if job.received_ns else 0)
        for job in real:
            story = self.story_of[job]
            assert story.waiting.pop(0) is job, "out of order"
            assert story.owner in (None, owner), "a sequence changed its instance"
            story.owner = owner
            self.told.append(job)

    @invariant()
    def books(self):
        batcher = self.batcher
        assert batcher.live == sum(len(story.waiting) for story in self.everything)
        slots = batcher._slots
        assert len(slots.placed) <= self.slots * len(OWNERS)
        assert not slots.backlog or len(slots.placed) == self.slots * len(OWNERS), "a slot is free beside a backlog"
        assert len(set(map(id, self.told))) == len(self.told), "told twice"
        assert sorted(batcher.idle) == sorted(owner for owner in OWNERS if not self.working[owner])
        for owner in batcher.idle:
            assert not batcher._has_work(owner), "a request waits beside its idle instance"


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
