"""Streams for callers in process: the answers of a decoupled model over a bounded memory channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..schema.inference import InferenceRequest, InferenceResponse
    from .port.served import Answer, InferenceStream, Served

ENDS_MAX = 2
"""Answers that need no credit: one of the model's, and one of the engine's."""


async def answers_of(
    model: Served, request: InferenceRequest, deadline: float, credit: int
) -> AsyncGenerator[InferenceResponse, None]:
    """Submits to a decoupled model and yields its responses. Raises the first error among the answers; closed or
    cancelled, the caller has left. `credit` is how many answers the model may send before they are taken here."""
    arrive, arrived = trio.open_memory_channel["Answer"](credit + ENDS_MAX)

    def on_answer(_: InferenceStream, answer: Answer) -> None:
        arrive.send_nowait(answer)  # there is room: the model waits for credit

    job = model.submit_stream(request, on_answer, deadline)
    try:
        while True:
            answer = await arrived.receive()
            if answer.fault is not None:
                raise answer.fault.copy()
            if answer.response is not None:
                yield answer.response
            if answer.final:
                return
            job.consumed()
    finally:
        job.cancel()
