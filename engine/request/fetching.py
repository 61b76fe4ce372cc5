"""Reading the inputs of a batch that lie in shared memory, when its turn has come. See sharing.py."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...schema.fault import Fault, Internal

if TYPE_CHECKING:
    from .admission import Admission
    from .batch import Batch
    from .job import Job

log = logging.getLogger("despina.engine.request.fetching")


def fetch(batch: Batch, admission: Admission, *, leave_on_devices: bool = False) -> Batch:
    """Reads the shared inputs of a batch, but for those that its executor takes on devices. Returns what to execute of
    it: the batch itself, or another of the jobs where that did not fail, perhaps of none; the others have their faults.
    Never raises; copies may take long."""
    refused: list[Job] = []
    for job in batch.jobs:
        shared = job.request.shared
        if shared is None:
            continue
        try:
            for tensor in shared.inputs:
                if leave_on_devices and tensor.on_device and tensor.datatype != "BYTES":
                    continue  # whose sizes have been checked
                tensor.memory()
                admission.check_fetched(job.request, tensor)
        except Fault as fault:
            job.fail(fault.with_traceback(None))  # whose frames would keep the region open
            refused.append(job)
        except Exception as problem:  # no memory, for one
            log.exception("reading shared memory failed")
            job.fail(Internal(f"unable to read shared memory: {type(problem).__name__}"))
            refused.append(job)
    if not refused:
        return batch
    return batch.part([job for job in batch.jobs if job not in refused])


def fetched_bytes(batch: Batch) -> int:
    """How much `fetch` would copy."""
    return sum(
        tensor.byte_size for job in batch.jobs if job.request.shared is not None for tensor in job.request.shared.inputs
    )
