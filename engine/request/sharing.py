"""What the engine does for requests whose tensors lie in shared memory, before and after execution.

    take ──▶ fetch(batch)   on the executing thread: inputs are read; a job whose region fails leaves the batch
                            (fetching.py)
         ──▶ execute
         ──▶ place(jobs)    on the trio thread, before delivery: outputs go to their regions, and out of the answer

A caller that has left (cancelled, past its deadline) never has its region written to.
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
