"""What holds of a whole engine between any two of its steps, and when nothing is under way."""

from __future__ import annotations

from collections import Counter

from despina.engine.engine import Engine
from despina.engine.execute.instances import MemberState
from despina.engine.execute.limited import LimitedFeed
from despina.engine.model.ensemble.version import EnsembleVersion
from despina.engine.model.hosted import HostedVersion
from despina.engine.model.version import ModelVersion
from despina.engine.repository.registry import ON_PURPOSE, State
from despina.engine.request.job import JobState
from despina.engine.request.stream import StreamJob
from despina.engine.schedule.dynamic import DynamicBatcher
from despina.engine.schedule.rate_limiter import ClaimState
from despina.engine.schedule.scheduler import Scheduler
from despina.engine.schedule.sequence import SequenceBatcher
from despina.engine.schedule.sequence_forming import Direct
from despina.engine.schedule.timers import SWEEP_MIN

WAITS_MAX = 6
"""Looks in a row at which a request may wait although an instance is idle: what was posted has come by then."""

GIVEN_BACK_MAX = 16
"""Requests that were handed over before their turn, and are in the queue again beside those that came meanwhile."""


class Watch:
    """Looks again and again."""

    def __init__(self) -> None:
        self._waits: Counter[ModelVersion] = Counter()

    def look(self, engine: Engine) -> None:
        """Now."""
        check_now(engine)
        for model in engine.versions():
            if not isinstance(model, ModelVersion):
                continue
            queue = model.scheduler
            forsaken = is_forsaken(queue) and not waits_for_turn(model)
            self._waits[model] = self._waits[model] + 1 if forsaken else 0
            assert self._waits[model] < WAITS_MAX, "a request waits although an instance is idle"


def is_forsaken(queue: Scheduler) -> bool:
    """Whether a request waits that could be executed."""
    if not isinstance(queue, SequenceBatcher):
        return bool(queue.live and queue.idle and not queue.rule.delay_s)
    strategy = queue._strategy
    delay_s = strategy.delay_s if isinstance(strategy, Direct) else strategy.rule.delay_s
    return not delay_s and any(queue._slots.of(instance).waiting for instance in queue.idle)


def waits_for_turn(model: ModelVersion) -> bool:
    """Whether one of its instances does: the others need what it needs."""
    feed = model._feed
    return isinstance(feed, LimitedFeed) and any(
        seat.claim.state is ClaimState.WAITING for seat in feed._seats.values()
    )


def check_now(engine: Engine) -> None:
    """Between any two steps."""
    for name, entry in engine.registry.models.items():
        for number, version in entry.versions.items():
            assert (version.model is not None) == (version.state is State.READY)
            if version.state is State.READY:
                assert engine.model(name, number) is version.model
        ready = entry.ready()
        if ready:
            assert engine.model(name) is ready[-1]
    strict = all(
        not version.model.problems()
        if version.state is State.READY
        else version.reason in ON_PURPOSE or entry.on_request
        for entry in engine.registry.models.values()
        for version in entry.versions.values()
    )
    strict &= all(
        entry.versions or entry.on_request or not entry.is_known() for entry in engine.registry.models.values()
    )
    assert engine.health().ready == strict
    for model in engine.versions():
        if isinstance(model, ModelVersion):
            check_model(model)
        else:
            check_ensemble(model)
    bound = engine.settings.loaded_models_max
    assert not bound or len({model.name for model in engine._repository._hosts.running if model.takes_room}) <= bound, (
        "more than there is room"
    )


def check_model(model: ModelVersion) -> None:
    """Queue, books, limits and streams of one."""
    queue, ledger = model.scheduler, model.ledger
    if isinstance(queue, SequenceBatcher):
        check_sequences(queue)
    else:
        check_levels(queue)
    assert ledger.inflight >= max(queue.live, len(ledger.streams))
    assert ledger.broken == 0
    assert len(set(map(id, queue.idle))) == len(queue.idle) <= len(model.instances.status())
    assert len(model.limits.timers) <= 2 * SWEEP_MIN + 8 * ledger.inflight
    for stream in ledger.streams:
        assert isinstance(stream, StreamJob)
        assert 0 <= stream._unconsumed <= stream._credit
        assert len(stream._outbox) <= stream._credit + 1


def check_levels(queue: DynamicBatcher) -> None:
    given_back = GIVEN_BACK_MAX if queue.ahead is not None else 0
    for level in queue.levels.in_use:
        queued = sum(job.state is JobState.QUEUED for job in (*level.jobs, *level.delayed))
        assert 0 <= level.live == queued
        assert not level.size_max or level.live <= level.size_max + given_back
    stored = sum(map(len, queue.levels.in_use))
    assert queue.live == sum(level.live for level in queue.levels.in_use) <= queue.size_max + given_back
    assert queue.levels.tombstones == stored - queue.live


def check_sequences(queue: SequenceBatcher) -> None:
    slots = queue._slots
    waiting = [job for sequence in (*slots.placed, *slots.backlog) for job in sequence.jobs]
    assert all(job.state is JobState.QUEUED for job in waiting)
    assert queue.live == len(waiting)  # those that go on beyond the bound were accepted long ago
    assert not (slots.placed.keys() & slots.backlog.keys())
    assert all(sequence.slot is not None and sequence.slot.sequence is sequence for sequence in slots.placed)
    assert all(sequence.jobs for sequence in slots.backlog)


def check_resources(engine: Engine) -> None:
    """When nothing is in flight: nothing is held, and nobody waits for a turn or has gone without saying so."""
    shared = engine._repository.resources if engine._repository is not None else None
    if shared is not None:
        assert all(claim.state is ClaimState.RESTING for claim in shared._limiter.claims)
        assert not any(shared._limiter.taken.values())
        assert len(shared._limiter.claims) == sum(
            member.state is not MemberState.STOPPED
            for model in engine._repository._hosts.running
            if isinstance(model, ModelVersion)
            for member in model.instances._members
        )


def check_ensemble(model: HostedVersion) -> None:
    """Books and places of one."""
    assert isinstance(model, EnsembleVersion)
    assert model.ledger.broken == 0
    assert model.ledger.inflight == len(model._jobs)
    if model.places is not None:
        assert all(len(taken) <= model.places._limit for taken in model.places._taken)


def check_quiet(engine: Engine) -> None:
    """When nothing has been asked for some time: nothing is in flight, and whoever serves waits to be started."""
    for model in engine.versions():
        assert isinstance(model, ModelVersion | EnsembleVersion)
        assert (model.ledger.inflight, model.ledger.pins, model.pending) == (0, 0, 0)
        if isinstance(model, EnsembleVersion):
            assert model.places is None or not any((*model.places._taken, *model.places._waiting)), "a place is lost"
            continue
        assert not any(member.state is MemberState.DOWN for member in model.instances._members), "it stays down"
        serving = [m.instance for m in model.instances._members if m.state is MemberState.SERVING]
        assert set(model.scheduler.idle) == set(serving), "an instance is lost, or one that has gone is waited for"
    check_resources(engine)
    check_now(engine)
