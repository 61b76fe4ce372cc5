"""What the engine does for requests whose tensors lie in shared memory, before and after execution.

    take ──▶ fetch(batch)   on the executing thread: inputs are read; a job whose region fails leaves the batch
         ──▶ execute
         ──▶ place(jobs)    on the trio thread, before delivery: outputs go to their regions, and out of the answer

A caller that has left (cancelled, past its deadline) never has its region written to.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...schema.fault import Fault, Internal
from ...schema.tensor import Tensor
from ..port.backend import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...schema.inference import InferenceResponse
    from ...schema.shared_memory import SharedUse
    from .admission import Admission
    from .job import Job

log = logging.getLogger("despina.engine.request.sharing")


def fetch(batch: Batch, admission: Admission) -> Batch:
    """Reads the shared inputs of a batch. Returns what to execute of it: the batch itself, or another of the jobs where
    that did not fail, perhaps of none; the others have their faults. Never raises; copies may take long."""
    refused: list[Job] = []
    for job in batch.jobs:
        shared = job.request.shared
        if shared is None:
            continue
        try:
            for tensor in shared.inputs:
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
    sound = Batch([job for job in batch.jobs if job not in refused], 0, batch.reason)
    sound.size = sum(job.batch_size for job in sound.jobs)
    sound.started_ns = batch.started_ns
    return sound


def executed(batch: Batch, sound: Batch) -> None:
    """What was executed of a batch is over: its time stamps are the batch's."""
    batch.inputs_ready_ns = sound.inputs_ready_ns
    batch.outputs_started_ns = sound.outputs_started_ns


def fetched_bytes(batch: Batch) -> int:
    """How much `fetch` would copy."""
    return sum(
        tensor.byte_size for job in batch.jobs if job.request.shared is not None for tensor in job.request.shared.inputs
    )


def place(jobs: Iterable[Job]) -> None:
    """Writes the outputs of answered jobs where their requests want them, and lets go of the regions.

    A job whose outputs cannot be written gets a fault in place of its answer. Never raises.
    """
    for job in jobs:
        shared = job.request.shared
        if shared is None:
            continue
        response = job.response
        if response is not None and job.fault is None and shared.outputs and job.on_done is not None:
            job.fault = place_response(response, shared)
            if job.fault is not None:
                job.response = None
        shared.release()


def place_response(response: InferenceResponse, shared: SharedUse) -> Fault | None:
    """Writes the outputs that have a place, and leaves them in the answer without their bytes. Returns what went
    wrong: then either nothing or only some outputs were written."""
    outputs = shared.outputs
    results = response.outputs
    response.template = None  # without their bytes, its outputs are like no others
    try:
        for tensor in results:
            extent = outputs.get(tensor.name)
            if extent is not None and len(tensor.memory()) > extent.byte_size:
                return Internal(
                    f"shared memory size specified with the request for output '{tensor.name}' ({extent.byte_size} "
                    f"bytes) should be at least {len(tensor.memory())} bytes to hold the results"
                )
        for index, tensor in enumerate(results):
            extent = outputs.get(tensor.name)
            if extent is not None:
                extent.write(tensor.memory())
                results[index] = Tensor(tensor.name, tensor.datatype, tensor.shape, b"")
    except Fault as fault:
        return fault.with_traceback(None)  # whose frames would keep the region open
    except Exception as problem:
        log.exception("writing to shared memory failed")
        return Internal(f"unable to write to shared memory: {type(problem).__name__}")
    return None
