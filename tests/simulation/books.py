"""What a simulation knows by itself of each request, to hold the engine's account against.

    accepted ──▶ told (an answer or a fault), or left ──▶ one of success, BACKEND, CANCELED, REJECTED

A request counts as CANCELED exactly if its caller did not wait for the answer: it left, or its deadline passed, while
the request was queued or executing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from despina.engine.model.ensemble.version import EnsembleVersion
from despina.engine.model.hosted import HostedVersion
from despina.engine.model.version import ModelVersion
from despina.engine.observe.statistics import ModelStats
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job, JobState
from despina.engine.request.ledger import Ledger
from despina.engine.request.stream import Answer, StreamJob
from despina.engine.schedule.order import caller_of
from despina.engine.schedule.sequence import SequenceBatcher
from despina.schema.fault import Cancelled, DeadlineExceeded, Fault
from despina.schema.wire.generated.inference import ModelQueuePolicyTimeoutAction

UNDECIDED = (JobState.QUEUED, JobState.EXECUTING)


def number_of(job: Job) -> int:
    """The number that a request carries: no two of a history have the same."""
    return int(job.request.inputs["IN"].numpy().ravel()[0])


def counted_by(statistics: ModelStats) -> Counter[str]:
    """Requests that have ended, by how."""
    return +Counter({"success": statistics.success_count, **statistics.failures})


def serial_of(job: Job) -> int:
    """Its place among all jobs of the history. Steps of an ensemble come later than their numbers say."""
    return job.serial  # type: ignore[attr-defined]  # noted.py gives it


@attrs.define(eq=False)
class Account:
    """Of one accepted request."""

    job: Job
    model: HostedVersion
    number: int
    told: int = 0
    """Times that the caller was told the end."""
    fault: Fault | None = None
    """With which it ended, if its caller was told."""
    state: JobState = JobState.QUEUED
    """Of the job when its caller was told or left."""
    left: bool = False
    """The caller left before it was told."""
    counted_as: str = ""
    """What it was when it left, if it was over already."""
    sent: int = 0
    """A stream's answers that `send` said are wanted."""
    failed: bool = False
    """One of a stream's answers was an error of the model's."""
    received: int = 0

    def hear(self, job: Job) -> None:
        """The caller is told, of a model that answers once."""
        assert not self.left, "told after leaving"
        assert job.state not in (JobState.QUEUED, JobState.CANCELLED)
        self.told += 1
        self.fault, self.state = job.fault, job.state
        if job.fault is None:
            assert job.response is not None, "told nothing"
            assert int(job.response.outputs[0].numpy().ravel()[0]) == self.number, "somebody else's answer"

    def hear_answer(self, job: StreamJob, answer: Answer) -> None:
        """The caller is told one of a stream's answers."""
        assert not self.left, "told after leaving"
        assert not self.told, "told after the final answer"
        index = None
        if answer.response is not None:
            assert int(answer.response.outputs[0].numpy().ravel()[0]) == self.number, "somebody else's answer"
            index = answer.response.parameters["index"]
        elif answer.fault is not None and answer.fault.message.startswith("answer "):
            index = int(answer.fault.message.split()[1])
            self.failed = True
        if index is not None:
            assert index == self.received, "answers out of order, or lost"
            self.received += 1
        if answer.final:
            self.told += 1
            self.fault, self.state = answer.fault, job.state
            if not isinstance(answer.fault, DeadlineExceeded):
                assert self.received == self.sent, "answers were lost"

    def leave(self) -> None:
        """The caller is about to leave."""
        job = self.job
        if self.told or self.left:
            return
        self.left = True
        self.state = job.state
        if job.state is JobState.DONE:  # its answer was kept back, for the order of answers
            self.counted_as = "success" if job.fault is None else "BACKEND"

    @property
    def outcome(self) -> str:
        """As what the engine must have counted it."""
        late = isinstance(self.fault, DeadlineExceeded)
        if self.counted_as:
            return self.counted_as
        if self.state is JobState.REJECTED:
            return "CANCELED" if self.left or late else "REJECTED"
        if isinstance(self.job, StreamJob):
            if self.left or late:  # unless the model had failed before: its first error counts
                return "CANCELED" if isinstance(self.job.failure, Cancelled | DeadlineExceeded) else "BACKEND"
            return "BACKEND" if self.failed or self.fault is not None else "success"
        if self.left or late:
            return "CANCELED"
        return "success" if self.fault is None else "BACKEND"


class EnsembleAccount(Account):
    """Of one request that an ensemble has accepted; its models' requests have their own."""

    def hear_answer(self, job: StreamJob, answer: Answer) -> None:
        assert not self.left, "told after leaving"
        assert not self.told, "told after the final answer"
        if answer.response is not None:
            assert int(answer.response.outputs[0].numpy().ravel()[0]) == self.number, "somebody else's answer"
        if answer.final:
            self.told += 1
            self.fault, self.state = answer.fault, job.state

    @property
    def outcome(self) -> str:
        if self.left or isinstance(self.fault, DeadlineExceeded):
            return "CANCELED"
        return "success" if self.fault is None else "OTHER"


class Books:
    """Of one history."""

    def __init__(self) -> None:
        self.accounts: dict[Job, Account] = {}
        self.executed: Counter[Ledger] = Counter()
        self.warmed: dict[Ledger, Counter[str]] = defaultdict(Counter)
        """Requests of samples that were counted, each executed by itself."""
        self.taken: dict[tuple[ModelVersion, int, str], list[int]] = defaultdict(list)
        """Serials by model version, level and, where it makes a difference, caller, as they were taken."""
        self.given_back: set[int] = set()
        """Serials of those that were taken before their turn, and were not executed then."""
        self.order: dict[ModelVersion, list[int]] = defaultdict(list)
        """Serials by model version, as they were taken."""
        self.told: dict[HostedVersion, list[int]] = defaultdict(list)
        """Serials by model version, as their callers were told of the end of their execution."""
        self.states: dict[object, int] = {}
        """By sequence: what the model has set last, since START."""
        self.of_sequences: dict[object, list[int]] = defaultdict(list)
        """By sequence: numbers, as they were taken."""
        self.some_wait_first = False
        """Requests may wait for their model to be loaded: their numbers say nothing of their order then."""
        self.violations: list[AssertionError] = []
        self.mix: Counter[str] = Counter()
        """What was reached: `group: kind` -> how often."""

    def accept(self, job: Job, model: HostedVersion) -> Account:
        kind = Account if isinstance(model, ModelVersion) else EnsembleAccount
        account = self.accounts[job] = kind(job, model, number_of(job))
        return account

    def tell(self, account: Account, job: Job) -> None:
        account.hear(job)
        self._note_end(account)
        if job.state is JobState.DONE:
            self.told[account.model].append(serial_of(job))

    def leave(self, job: Job) -> None:
        account = self.accounts.get(job)
        if account is None or account.told or account.left:
            return
        account.leave()
        self.mix[f"callers: left while {account.state.name.lower()}"] += 1
        if isinstance(job, StreamJob):
            self.mix["streams: left"] += 1

    def hear(self, job: StreamJob, answer: Answer) -> None:
        account = self.accounts[job]
        account.hear_answer(job, answer)
        self.mix["streams: answers"] += 1
        if answer.final:
            self.mix["streams: ended"] += 1
            self._note_end(account)

    @contextmanager
    def asserting(self) -> Iterator[None]:
        """What does not hold within is remembered: raised there, it would count as a model's or a door's failure."""
        try:
            yield
        except AssertionError as error:
            self.violations.append(error)

    def take(self, batch: Batch, model: ModelVersion) -> None:
        """A batch leaves the queue, under the scheduler's lock."""
        jobs = batch.jobs
        assert jobs, "an empty batch"
        assert all(job.ledger is model.ledger for job in jobs)
        assert not any(job.is_cancelled() for job in jobs), "executed for nobody"
        assert batch.size == sum(job.batch_size for job in jobs) <= max(1, model.config.max_batch_size)
        assert len(jobs) == 1 or model.config.dynamic_batching
        if len(jobs) > 1 and "MAX_BATCH_VOLUME_BYTES" in model.config.parameters:
            volume = sum(len(tensor.memory()) for job in jobs for tensor in job.request.inputs.values())
            assert volume <= int(model.config.parameters["MAX_BATCH_VOLUME_BYTES"].string_value)
        lowest = max(job.level for job in jobs)
        urgent = [level for level in model.scheduler.levels.in_use if level.live and level.number < lowest]
        assert not urgent, "an urgent request was passed over"
        self.mix[f"batches: {batch.reason}"] += 1
        for job in jobs:
            caller = caller_of(model.scheduler.order.caller, job)
            self.taken[model, job.level, caller].append(serial_of(job))
            self.order[model].append(serial_of(job))

    def give_back(self, jobs: list[Job], model: ModelVersion) -> None:
        """They are in the queue again, as if they had never been taken; who was taken after them may stay taken."""
        for job in jobs:
            caller = caller_of(model.scheduler.order.caller, job)
            self.taken[model, job.level, caller].remove(serial_of(job))
            self.order[model].remove(serial_of(job))
            self.given_back.add(serial_of(job))

    def keep(self, job: Job) -> None:
        """A model sets a state of the job's sequence."""
        if job.received_ns:
            self.states[job.sequence] = number_of(job)

    def take_sequences(self, batch: Batch, model: ModelVersion) -> None:
        """A batch of a model of sequences was taken; nothing else touches its jobs."""
        real = [job for job in batch.jobs if job.received_ns]
        assert real, "a batch for nobody"
        # Who is there may have a request of another shape.
        assert batch.jobs[-1].received_ns or -1 in model.config.input[0].dims, "nobody in the highest place"
        assert batch.size == len(batch.jobs) <= max(1, model.config.max_batch_size)
        assert len({job.sequence for job in real}) == len(real), "two requests of one sequence at once"
        self.mix[f"batches: {batch.reason}"] += 1
        self.mix["sequences: places of nobody"] += len(batch.jobs) - len(real)
        for job in batch.jobs:
            ready, old = (int(job.request.inputs[name].numpy().ravel()[0]) for name in ("READY", "OLD"))
            assert ready == bool(job.received_ns)
            if not ready:
                assert old == 0, "nobody has somebody's state"
                continue
            taken = self.of_sequences[job.sequence]
            again = number_of(job) in taken[-1:]  # an execution may have taken no time
            assert again or not job.is_cancelled(), "executed for nobody"
            assert job.ledger is model.ledger
            if job.request.sequence_start:
                self.states.pop(job.sequence, None)
            assert old == self.states.get(job.sequence, 0), "another sequence's state"
            self.mix["sequences: states found"] += bool(old)
            what = "executed again" if again else "begun" if job.request.sequence_start else "gone on with"
            self.mix[f"sequences: {what}"] += 1
            assert not taken or taken[-1] <= number_of(job), "a sequence's requests have not kept their order"
            taken.append(number_of(job))

    def undecided(self) -> list[str]:
        """The requests that have not ended, each with its model and its state."""
        return [
            f"{account.number} ({type(job).__name__}) of {account.model.name}: {job.state.name}"
            for job, account in self.accounts.items()
            if job.state in UNDECIDED
        ]

    def _note_end(self, account: Account) -> None:
        message = "" if account.fault is None else account.fault.message
        if "timeout of the corresponding sequence" in message:
            self.mix["sequences: too long in the backlog"] += 1
        elif "the instance that kept the sequence is gone" in message:
            self.mix["sequences: lost with their instance"] += 1
        elif isinstance(account.fault, Cancelled) and account.job.sequence is not None:
            self.mix["sequences: taken along by who left"] += 1
        if isinstance(account.fault, DeadlineExceeded):
            when = "queued" if account.state is JobState.REJECTED else "executing"
            self.mix[f"callers: late while {when}"] += 1

    # --- The end

    def check(self) -> None:
        """After everything has ended."""
        by_model: dict[HostedVersion, list[Account]] = defaultdict(list)
        for job, account in self.accounts.items():
            assert job.state not in UNDECIDED
            assert job.on_done is None, "somebody was never told"
            assert account.told + account.left == 1
            by_model[account.model].append(account)
        for model, accounts in by_model.items():
            self._check_counts(model, Counter(account.outcome for account in accounts))
            if not isinstance(model, ModelVersion):
                assert isinstance(model, EnsembleVersion)
                assert (model.ledger.inflight, model.ledger.pins, model.ledger.broken) == (0, 0, 0)
                continue
            self._check_executions(model)
            assert model.ledger.pins == 0
            assert (model.ledger.inflight, model.scheduler.live, model.ledger.broken) == (0, 0, 0)
            assert not model.ledger.streams
            assert not model.ledger.ordered
            assert isinstance(model.scheduler, SequenceBatcher) or not any(
                level.live for level in model.scheduler.levels.in_use
            )
        for (model, *_), taken in self.taken.items():
            if model.scheduler.order.adaptive or self.some_wait_first:
                continue
            batching = model.config.dynamic_batching
            policy = batching.default_queue_policy if batching is not None else None
            if policy is None or policy.timeout_action != ModelQueuePolicyTimeoutAction.DELAY:
                in_turn = [serial for serial in taken if serial not in self.given_back]
                assert in_turn == sorted(in_turn), "served out of turn"
        for model, told in self.told.items():
            if isinstance(model, ModelVersion) and model.ledger.ordered is not None:
                place = {number: index for index, number in enumerate(self.order[model])}
                places = [place[number] for number in told]
                assert places == sorted(places), "answers have not kept the order"

    def _check_counts(self, model: HostedVersion, outcomes: Counter[str]) -> None:
        statistics = model.statistics
        warmed = self.warmed[model.ledger]
        counted = counted_by(statistics)
        expected = outcomes + warmed
        assert counted == expected, f"model '{model.name}' counted {counted}, its callers and warm-up {expected}"
        assert statistics.fail_count == sum(statistics.failures.values())

    def _check_executions(self, model: ModelVersion) -> None:
        statistics = model.statistics
        executions = statistics.execution_count
        assert executions == sum(row[0] for row in statistics.batches.values())
        assert executions == sum(statistics.batch_reasons.values())
        assert executions <= self.executed[model.ledger] + self.warmed[model.ledger].total()
        for sum_ns in (statistics.success_ns, statistics.fail_ns, statistics.queue_ns, statistics.infer_ns):
            assert sum_ns >= 0
