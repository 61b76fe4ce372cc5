"""The sequence batcher by itself, against books kept naively: order, slots, backlog, states; and nothing is lost."""

from pathlib import Path

import pytest
from despina.engine.request.job import Job, JobState, move
from despina.engine.schedule.choice import scheduler_of
from despina.engine.schedule.states import States
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest
from despina.schema.model_config import parse_config
from despina.schema.tensor import Tensor
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

IDLE_S = 1.0
OWNERS = ("x", "y")
CONFIG = """name: "m" backend: "b" max_batch_size: %d sequence_batching { max_sequence_idle_microseconds: %d %s
  control_input [{ name: "READY" control [{ kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }] },
                 { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] }]
  state [{ input_name: "COUNT" output_name: "NEXT" data_type: TYPE_INT32 dims: [1] }] }"""


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def made(strategy, rows):
    config = parse_config((CONFIG % (rows, int(IDLE_S * 1e6), strategy)).encode())
    clock = Clock()
    return scheduler_of(config, States(config, Path()), 1000, clock), clock


def number(tensor):
    return int(tensor.numpy().ravel()[0])


class Story:
    """What the oracle knows of one sequence."""

    def __init__(self, id):
        self.id = id
        self.waiting = []
        self.owner = None
        self.executing = None
        self.is_closed = False
        """Nothing may come of it any more."""
        self.placed = False
        self.heard_at = 0.0
        """When its last request came."""
        self.gives_up_at = float("inf")
        """When it has waited too long in the backlog."""
        self.count = 0
        """The state that its next request must find."""

    @property
    def is_over(self):
        return self.is_closed and not self.waiting and self.executing is None


class Sequences(RuleBasedStateMachine):
    @initialize(
        rows=st.integers(1, 3),
        strategy=st.sampled_from(["", "direct {}", "oldest { max_candidate_sequences: 2 }"]),
        iterative=st.booleans(),
    )
    def begin(self, rows, strategy, iterative):
        self.batcher, self.clock = made(strategy + (" iterative_sequence: true" if iterative else ""), rows)
        self.oldest, self.iterative = "oldest" in strategy, iterative
        self.slots = 2 if self.oldest else rows
        self.owners = set(OWNERS)
        self.batcher.refuse = self.refused
        self.stories = []
        """Those that are not over, in the order in which they began."""
        self.story_of = {}
        self.numbers = 0
        self.working = dict.fromkeys(OWNERS)
        self.told = []
        for owner in OWNERS:
            assert self.batcher.take(owner, 0.0)[0] is None

    # --- The oracle

    def active(self, id):
        return next((story for story in self.stories if story.id == id and not story.is_closed), None)

    def settle(self):
        """Slots go to who has waited longest."""
        self.stories = [story for story in self.stories if not story.is_over]
        free = self.slots * len(self.owners) - sum(story.placed for story in self.stories)
        for story in self.stories:
            if free > 0 and not story.placed:
                story.placed = True
                free -= 1

    def refused(self, jobs):
        for job in jobs:
            assert job.state is JobState.REJECTED
            assert job.fault is not None
            self.story_of[job].waiting.remove(job)
            self.told.append(job)

    # --- What happens

    @rule(
        id=st.integers(0, 5),
        start=st.booleans(),
        end=st.sampled_from([False, False, True]),
        timeout_us=st.sampled_from([0, 0, 700_000]),
    )
    def put(self, id, start, end, timeout_us):
        inputs = {"IN": Tensor("IN", "INT32", (1, 1), b"\1\0\0\0")}
        flags = {"sequence_start": start, "sequence_end": end, "timeout_us": timeout_us}
        job = Job(InferenceRequest("m", inputs, correlation_id=id, **flags), lambda _: None)
        self.numbers += 1
        job.received_ns, job.queued_at = self.numbers, self.clock.now
        story = self.active(id)
        if not id and not self.iterative:
            with pytest.raises(InvalidArgument, match="non-zero or non-empty"):
                self.batcher.put(job)
            return
        if id and story is None and not start:
            with pytest.raises(InvalidArgument, match="START flag"):
                self.batcher.put(job)
            return
        started = self.batcher.put(job)
        id = job.request.correlation_id
        if story is None:
            assert self.active(id) is None, "a generated id that somebody has"
            story = Story(id)
            self.stories.append(story)
            self.settle()
        story.waiting.append(job)
        story.heard_at = self.clock.now
        if timeout_us and not story.placed:
            story.gives_up_at = min(story.gives_up_at, self.clock.now + timeout_us * 1e-6)
        self.story_of[job] = story
        if end and not self.iterative:
            story.is_closed = True
        if started is not None:
            assert self.working[started] is None
            self.work(started)

    @rule(owner=st.sampled_from(OWNERS), data=st.data())
    def finish(self, owner, data):
        """An instance that works has finished its batch, and looks for the next."""
        batch = self.working[owner]
        if batch is None:
            return
        again = self.execute(batch, data)
        for job in batch.jobs:
            if job.received_ns:
                story = self.story_of[job]
                story.executing = None
                if job in again:
                    story.waiting.insert(0, job)
                    continue
                self.told.append(job)
                if self.iterative:
                    story.is_closed = not story.waiting
        self.settle()
        self.work(owner)

    def execute(self, batch, data):
        """Those that are to be executed once more."""
        again = []
        for job in batch.jobs:
            if data.draw(st.booleans(), label="keeps a state"):
                count = number(job.request.inputs["COUNT"]) + 1
                job.set_state("NEXT", Tensor("NEXT", "INT32", (1, 1), count.to_bytes(4, "little")))
                if job.received_ns:
                    self.story_of[job].count = count
            if self.iterative and data.draw(st.booleans(), label="again"):
                job.reschedule()
                if job.received_ns:
                    again.append(job)
            else:
                job.fail(InvalidArgument("an answer"))
        batch.settle(None)
        assert batch.again == again
        move([job for job in batch.jobs if job not in again], JobState.DONE)
        return again

    @rule(data=st.data())
    def leave(self, data):
        waiting = [job for story in self.stories for job in story.waiting]
        if not waiting:
            return
        job = data.draw(st.sampled_from(waiting))
        story = self.story_of[job]
        story.waiting.remove(job)
        self.told.append(job)
        assert self.batcher.leave(job, JobState.CANCELLED)
        assert not story.waiting, "all of it was refused"
        story.is_closed = True
        self.settle()
        self.look()

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.0]))
    def time_passes(self, seconds):
        now = self.clock.now = self.clock.now + seconds
        self.settle_silence()
        told = len(self.told)
        late = [story for story in self.stories if not story.placed and story.gives_up_at <= now]
        waiting = sum(len(story.waiting) for story in late)
        self.look()
        assert len(self.told) >= told + waiting
        assert not any(story.waiting for story in late)
        for story in late:
            story.is_closed = True
        self.settle()
        assert self.batcher.due() == 0 or self.batcher.due() > now

    def settle_silence(self):
        """Whoever has a slot and was not heard of for too long; and of those that come up then."""
        while True:
            silent = [
                story
                for story in self.stories
                if story.placed and not story.is_closed and story.heard_at + IDLE_S <= self.clock.now
            ]
            if self.iterative or not silent:
                return
            for story in silent:
                story.is_closed = True
            self.settle()

    @rule(owner=st.sampled_from(OWNERS), dies=st.booleans())
    def comes_and_goes(self, owner, dies):
        if owner in self.owners and not dies:
            return
        if owner not in self.owners:
            self.owners.add(owner)
            self.settle()
            self.work(owner)
            return
        batch, self.working[owner] = self.working[owner], None
        if batch is not None:
            batch.ended_ns = 1
            batch.is_lost = True
            lost = [job for job in batch.jobs if job.received_ns]
            move(lost, JobState.DONE)
            self.told += lost
        there = [slot.sequence for slot in self.places(owner).slots if slot.sequence is not None]
        lost = [self.story_of_sequence(sequence) for sequence in there]
        self.owners.discard(owner)
        self.batcher.withdraw(owner)
        for story in lost:
            assert not story.waiting, "refused with the instance"
            story.is_closed, story.executing = True, None
        self.settle()

    def places(self, owner):
        return self.batcher._slots.of(owner)

    def story_of_sequence(self, sequence):
        (story,) = {self.story_of[job] for job in self.story_of if job.sequence is sequence}
        return story

    def look(self):
        self.settle_silence()  # who came up only now may have been silent too long
        while (owner := self.batcher.wake()) is not None:
            assert self.working[owner] is None
            self.work(owner)

    def work(self, owner):
        batch, late, _ = self.batcher.take(owner, 0.0)
        assert late == []
        self.working[owner] = batch
        if batch is None:
            return
        assert (
            1
            <= len(batch.jobs)
            <= (min(self.slots, self.batcher._strategy.rule.rows_max) if self.oldest else self.slots)
        )
        real = [job for job in batch.jobs if job.received_ns]
        assert real, "a batch for nobody"
        assert batch.jobs[-1].received_ns, "a null request above the highest ready one"
        assert not self.oldest or len(real) == len(batch.jobs)
        assert not self.oldest or [job.turn for job in real] == sorted(job.turn for job in real)
        assert len({self.story_of[job] for job in real}) == len(real), "two of one sequence"
        for job in batch.jobs:
            assert number(job.request.inputs["READY"]) == (1 if job.received_ns else 0)
        for job in real:
            story = self.story_of[job]
            assert story.waiting.pop(0) is job, "out of order"
            assert story.executing is None, "two of one sequence at once"
            assert story.placed
            story.executing = job
            assert story.owner in (None, owner), "a sequence changed its instance"
            story.owner = owner
            begins = number(job.request.inputs["START"])
            assert begins == (not job.executed_ns and job.request.sequence_start)
            if begins:
                story.count = 0
            assert number(job.request.inputs["COUNT"]) == story.count, "somebody else's state"

    # --- What holds

    @invariant()
    def books(self):
        batcher, slots = self.batcher, self.batcher._slots
        assert batcher.live == sum(len(story.waiting) for story in self.stories)
        assert len(slots.placed) == sum(story.placed for story in self.stories)
        assert len(slots.backlog) == sum(not story.placed for story in self.stories)
        assert sorted(slots.active) == sorted(story.id for story in self.stories if not story.is_closed)
        assert batcher.sequences == len(slots.active)
        assert len(set(map(id, self.told))) == len(self.told), "told twice"
        assert sorted(batcher.idle) == sorted(owner for owner in self.owners if self.working[owner] is None)
        for owner in batcher.idle:
            assert not self.places(owner).waiting, "a request waits beside its idle instance"
        for owner in self.owners:
            numbers = [slot.number for slot in self.places(owner).slots]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) <= self.slots
        assert len(slots._expiries) <= 64 + 4 * len(slots.backlog)
        assert len(slots._silences) <= 65 + 4 * len(slots.placed)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
