"""What the engine does for requests whose tensors lie in shared memory, before and after execution.

    take ──▶ fetch(batch)   on the executing thread: inputs are read; a job whose region fails leaves the batch
                            (fetching.py)
         ──▶ execute
         ──▶ place_on_devices(jobs)  on the executing thread: outputs whose region is a GPU's, which may take a while
         ──▶ place(jobs)    on the trio thread, before delivery: outputs go to their regions, and out of the answer

A caller that has left (cancelled, past its deadline) never has its region written to; who leaves in the middle of a
copy to a GPU finds it done.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...schema.fault import Fault, Internal
from ...schema.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...schema.inference import InferenceResponse
    from ...schema.shared_memory import SharedUse
    from .job import Job

log = logging.getLogger("despina.engine.request.sharing")


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


def place_on_devices(jobs: Iterable[Job]) -> None:
    """Writes the outputs of answered jobs that GPUs are to hold, in answers of one tensor each: streams and what is
    composed come later, by `place`. Never raises; waits for devices."""
    for job in jobs:
        shared = job.request.shared
        if shared is None or not any(extent.on_device for extent in shared.outputs.values()):
            continue
        response = job.response
        if response is not None and job.fault is None and job.on_done is not None:
            fault = place_response(response, shared, on_device=True)
            if fault is not None:
                job.fault, job.response = fault, None


def place_response(response: InferenceResponse, shared: SharedUse, *, on_device: bool = False) -> Fault | None:
    """Writes the outputs that have a place, on devices only if asked so, and leaves them in the answer without their
    bytes. Returns what went wrong: then either nothing or only some outputs were written."""
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
            if extent is not None and (extent.on_device or not on_device):
                extent.write(tensor.memory())
                results[index] = Tensor(tensor.name, tensor.datatype, tensor.shape, b"")
    except Fault as fault:
        return fault.with_traceback(None)  # whose frames would keep the region open
    except Exception as problem:
        log.exception("writing to shared memory failed")
        return Internal(f"unable to write to shared memory: {type(problem).__name__}")
    return None
