"""A batch that fails together is executed again in halves, so that no request fails its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schema.fault import Fault

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from ..engine.port.work import BackendJob, Batch


def answer_apart(
    name: str,
    log: logging.Logger,
    batch: Batch,
    jobs: Sequence[BackendJob],
    rows: int,
    together: Callable[[Batch, Sequence[BackendJob], int], None],
) -> bool:
    """Answers all jobs by `together`, or in smaller parts where that raises a Fault. False where a request failed.
    `name` is the instance's."""
    try:
        together(batch, jobs, rows)
    except Fault as fault:
        if len(jobs) == 1:
            jobs[0].fail(fault)
            return False
        log.info("model instance '%s': executing %d requests in halves: %s", name, len(jobs), fault)
        ready_ns = batch.inputs_ready_ns
        half = len(jobs) // 2
        for part in (jobs[:half], jobs[half:]):
            answer_apart(name, log, batch, part, sum(job.batch_size for job in part), together)
        batch.inputs_ready_ns = ready_ns
        return False
    return True
