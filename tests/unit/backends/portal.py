"""Python models in processes of their own, for tests that do not await: the same calls as in process."""

from __future__ import annotations

import queue
import threading

import attrs
import trio
from despina.backends.python import PythonBackend
from despina.schema.fault import Fault

CLOSE_S = 10


_open: list[PortalInstance] = []


def close_all():
    """Ends the processes that a test has left open."""
    while _open:
        _open[-1].close()


class PortalBackend:
    """As PythonBackend, isolated."""

    def open_model(self, context):
        isolated = {**context.backend_config, "isolation": "process"}
        return PortalModel(PythonBackend().open_model(attrs.evolve(context, backend_config=isolated)))


class PortalModel:
    def __init__(self, model):
        self._model = model
        self.config = model.config

    def open_instance(self, context):
        return PortalInstance(self._model.open_instance(context))

    def close(self):
        self._model.close()


class PortalInstance:
    """An instance on a trio thread of its own."""

    movable = False

    def __init__(self, instance):
        self.instance = instance
        self._opened = queue.SimpleQueue()
        self._ended = None
        self._thread = threading.Thread(target=trio.run, args=(self._live,), daemon=True)
        self._thread.start()
        opened = self._opened.get()
        if opened is not None:
            self._thread.join()
            raise opened
        _open.append(self)

    def execute(self, batch):
        return trio.from_thread.run(self.instance.execute_async, batch, trio_token=self._token)

    def close(self):
        _open.remove(self)
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join()

    async def _live(self):
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self.instance.open(nursery)
                    self._opened.put(None)
                    await self._stop.wait()
                finally:
                    with trio.move_on_after(CLOSE_S) as scope:
                        scope.shield = True
                        await self.instance.aclose()
                nursery.cancel_scope.cancel()
        except* Fault as faults:
            self._opened.put(faults.exceptions[0])
