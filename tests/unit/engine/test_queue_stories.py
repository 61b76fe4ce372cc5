"""The whole dynamic batcher on virtual time against a naive oracle: levels, policies, bounds, sizes, delays, together.

The oracle steps from moment to moment over plain lists. All times are of different fractions of a millisecond, so that
no two things happen at the same moment.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import despina
import trio
import trio.testing
from despina.schema.fault import QueueFull, QueueTimeout
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import FakeBackend, inline_run_sync, request, write_model

ROWS_MAX = 4
COST_S = 0.010_01
LEVELS = 3


@attrs.frozen
class Policy:
    timeout_ms: int
    """0 for none."""
    rejects: bool
    size_max: int
    """0 for none."""
    override: bool

    @property
    def text(self):
        action = "REJECT" if self.rejects else "DELAY"
        timeout_us = self.timeout_ms * 1000 + 500 if self.timeout_ms else 0
        return (
            f"{{ timeout_action: {action} default_timeout_microseconds: {timeout_us} max_queue_size: {self.size_max} "
            f"allow_timeout_override: {str(self.override).lower()} }}"
        )


@attrs.frozen
class Arrival:
    gap_ms: int
    priority: int
    rows: int
    timeout_ms: int


@attrs.frozen
class Setup:
    delay_ms: int
    preferred: tuple[int, ...]
    policies: tuple[Policy, ...]

    @property
    def text(self):
        levels = "".join(
            f"priority_queue_policy {{ key: {index + 1} value {policy.text} }}\n"
            for index, policy in enumerate(self.policies)
        )
        delay_us = self.delay_ms * 1000 + 125 if self.delay_ms else 0
        return (
            f"dynamic_batching {{ priority_levels: {LEVELS} default_priority_level: 2 preferred_batch_size: "
            f"[{', '.join(map(str, self.preferred))}] max_queue_delay_microseconds: {delay_us}\n{levels} }}"
        )


@attrs.define
class Waiting:
    id: int
    rows: int
    came: float
    expires: float
    is_delayed: bool = False


def chosen(waiting, setup, now):
    """How many of those that wait go now, or 0; and when to look again if it is 0."""
    largest = max(setup.preferred)
    count = rows = best = 0
    stopped = False
    for one in waiting:
        if count and not best and rows + one.rows > largest:
            best = count
        if rows + one.rows > ROWS_MAX:
            stopped = True
            break
        count, rows = count + 1, rows + one.rows
        if rows in setup.preferred:
            best = count
    if not count:
        return 0, float("inf")
    delay_s = setup.delay_ms / 1000 + 0.000_125 if setup.delay_ms else 0.0
    due = min(one.came for one in waiting[:ROWS_MAX]) + delay_s
    late = delay_s > 0 and now >= due - 1e-9
    if best and not late:
        return best, 0.0
    if stopped or rows >= min(largest, ROWS_MAX) or rows >= ROWS_MAX or late or not delay_s:
        return count, 0.0
    return 0, due


def oracle(setup, arrivals):
    """The batches in order, and the ends of those that were in none."""
    queues = [[] for _ in range(LEVELS)]
    batches, ends = [], {}
    coming, now, free_at = [], 0.0, 0.0
    for index, arrival in enumerate(arrivals):
        now += arrival.gap_ms / 1000
        coming.append((now, index, arrival))
    now, look_at = 0.0, float("inf")
    while True:
        moments = [coming[0][0]] if coming else []
        moments += [one.expires for queue in queues for one in queue if not one.is_delayed]
        if any(queues):
            moments += [free_at] if free_at > now else []
            moments += [look_at] if look_at > now else []
        moments = [moment for moment in moments if moment < float("inf")]
        if not moments:
            return batches, ends
        now = min(moments)
        if coming and coming[0][0] <= now:
            _, index, arrival = coming.pop(0)
            level = arrival.priority - 1 if 1 <= arrival.priority <= LEVELS else 1
            policy = setup.policies[level]
            if policy.size_max and len(queues[level]) >= policy.size_max:
                ends[index] = QueueFull
            else:
                timeout_s = policy.timeout_ms / 1000 + 0.0005 if policy.timeout_ms else float("inf")
                if policy.override and policy.timeout_ms and arrival.timeout_ms:
                    timeout_s = min(timeout_s, arrival.timeout_ms / 1000 + 0.00075)
                queues[level].append(Waiting(index, arrival.rows, now, now + timeout_s))
        for level, queue in enumerate(queues):
            for one in [one for one in queue if one.expires <= now and not one.is_delayed]:
                queue.remove(one)
                if setup.policies[level].rejects:
                    ends[one.id] = QueueTimeout
                else:
                    one.is_delayed = True
                    queue.append(one)
        if free_at <= now:
            waiting = [
                one for queue in queues for is_delayed in (False, True) for one in queue if one.is_delayed == is_delayed
            ]
            count, look_at = chosen(waiting, setup, now)
            if count:
                batches.append([one.id for one in waiting[:count]])
                for one in waiting[:count]:
                    next(queue for queue in queues if one in queue).remove(one)
                free_at = now + COST_S


async def played(setup, arrivals):
    """The same by the engine."""
    backend, ends = FakeBackend(), {}
    backend.cost_s = COST_S

    async def ask(engine, index, arrival):
        asked = request(
            id=str(index),
            rows=arrival.rows,
            priority=arrival.priority,
            timeout_us=arrival.timeout_ms * 1000 + 750 if arrival.timeout_ms else 0,
        )
        try:
            await engine.infer_request(asked)
        except (QueueFull, QueueTimeout) as fault:
            ends[index] = type(fault)

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), "m", max_batch_size=ROWS_MAX, more=setup.text)
        async with (
            despina.open_engine(Path(folder), backends={"fake": backend}) as engine,
            trio.open_nursery() as nursery,
        ):
            for index, arrival in enumerate(arrivals):
                await trio.sleep(arrival.gap_ms / 1000)
                nursery.start_soon(ask, engine, index, arrival)
                await trio.testing.wait_all_tasks_blocked()
    return [[int(id) for id in ids] for ids in backend.ids], ends


POLICIES = st.builds(
    Policy,
    timeout_ms=st.sampled_from([0, 3, 12, 25]),
    rejects=st.booleans(),
    size_max=st.sampled_from([0, 0, 1, 3]),
    override=st.booleans(),
)
SETUPS = st.builds(
    Setup,
    delay_ms=st.sampled_from([0, 0, 5, 15]),
    preferred=st.sets(st.integers(1, ROWS_MAX), min_size=1, max_size=2).map(lambda sizes: tuple(sorted(sizes))),
    policies=st.tuples(*[POLICIES] * LEVELS),
)
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        gap_ms=st.integers(1, 6),
        priority=st.integers(0, LEVELS + 1),
        rows=st.sampled_from([1, 1, 1, 2, 4]),
        timeout_ms=st.sampled_from([0, 0, 2, 50]),
    ),
    min_size=1,
    max_size=14,
)


@given(SETUPS, ARRIVALS)
@settings(max_examples=60, deadline=None)
def test_any_story_ends_as_the_naive_oracle_says(setup, arrivals):
    """Goal: the same batches in the same order, and the same requests refused and timed out."""
    before, trio.to_thread.run_sync = trio.to_thread.run_sync, inline_run_sync
    try:
        found = trio.run(played, setup, arrivals, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio.to_thread.run_sync = before
    assert found == oracle(setup, arrivals)
