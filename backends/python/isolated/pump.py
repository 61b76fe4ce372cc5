"""One stream's answers on their way to its caller."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from .frames import fault_of

if TYPE_CHECKING:
    from ....engine.port.work import BackendStream
    from ....schema.tensor import Tensor
    from .instance import IsolatedInstance


class Pump:
    """Hands the answers of one stream over, each when its caller has room."""

    def __init__(self, instance: IsolatedInstance, number: int, job: BackendStream) -> None:
        self._instance = instance
        self._number = number
        self._job = job
        self._answers: deque[tuple[tuple[Any, ...] | None, list[Tensor]]] = deque()
        self._came = trio.Event()
        self._scope = trio.CancelScope()

    def put(self, fields: tuple[Any, ...] | None, tensors: list[Tensor]) -> None:
        """An answer; None when nothing follows."""
        self._answers.append((fields, tensors))
        self._came.set()

    def cancel(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        with self._scope:
            final = False
            while not final:
                while not self._answers:
                    self._came = trio.Event()
                    await self._came.wait()
                fields, tensors = self._answers.popleft()
                if fields is None:
                    break
                _, failed, parameters, final, has_outputs = fields
                if failed is not None:
                    there = await self._job.send_fault_async(fault_of(failed), final=final)
                else:
                    there = await self._job.send_async(tensors if has_outputs else None, parameters, final=final)
                self._instance.post("consumed", (self._number, 1, not there, final))
        self._instance.forget(self._number)
