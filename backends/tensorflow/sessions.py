"""A model's sessions: each has a copy of the variables, and serves as many instances as the configuration lets."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ...schema.fault import Fault, Internal
from .failure import failure_text
from .files import dismantle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...engine.port.backend import InstanceContext, InstanceKind
    from .files import Opened
    from .options import Options

_VARIABLES_WITHOUT_COPY = frozenset({"Variable", "VariableV2", "TemporaryVariable", "AutoReloadVariable"})
"""Their memory is written in place, whoever reads it."""


class Session:
    """One graph on one device. `run` may be called by several threads at a time."""

    def __init__(
        self, tf: Any, model_name: str, opened: Opened, options: Options, kind: InstanceKind, device_id: int
    ) -> None:
        v1 = tf.compat.v1
        self._graph = tf.Graph()
        self._session = v1.Session(graph=self._graph, config=options.session_config(tf, kind))
        self.users = 0
        try:
            with self._graph.as_default(), tf.device(f"/device:GPU:{device_id}") if kind == "GPU" else nullcontext():
                opened.load(self._session, kind == "MODEL")
        except BaseException as error:
            self.close()
            if isinstance(error, Fault) or not isinstance(error, Exception):
                raise
            raise Internal(f"failed to load model '{model_name}': {failure_text(error)}") from error
        self.writes_in_place = any(node.type in _VARIABLES_WITHOUT_COPY for node in self._graph.get_operations())

    def callable(self, feeds: Sequence[str], fetches: Sequence[str]) -> Callable[..., Any]:
        """Takes an array for each of `feeds`, gives one for each of `fetches`; names are the graph's. It keeps the
        session's memory until it is dropped."""
        from tensorflow.core.protobuf import config_pb2

        wanted = config_pb2.CallableOptions(feed=list(feeds), fetch=list(fetches))
        # What Session.run costs above this, ten times a small model's execution, is Python that finds out the same.
        made: Callable[..., Any] = self._session._make_callable_from_options(wanted)
        return made

    def close(self) -> None:
        self._session.close()
        dismantle(self._graph)


class Sessions:
    """Of one model version. Thread-safe: instances may open at the same time."""

    def __init__(self, tf: Any, model_name: str, opened: Opened, options: Options) -> None:
        self._tf = tf
        self._model_name = model_name
        self._opened = opened
        self._options = options
        self._lock = threading.Lock()
        self._open: dict[tuple[InstanceKind, int], list[Session]] = {}

    def take(self, instance: InstanceContext) -> Session:
        """One with room for another instance, or a new one. Give it back."""
        device = (instance.kind, instance.device_id)
        with self._lock:
            there = self._open.setdefault(device, [])
            found = next((item for item in there if item.users < self._options.instances_per_session), None)
            if found is None:
                found = Session(self._tf, self._model_name, self._opened, self._options, *device)
                there.append(found)
            found.users += 1
            return found

    def give_back(self, session: Session) -> None:
        """Closes it after its last user, which must have dropped its callables."""
        with self._lock:
            session.users -= 1
            if session.users:
                return
            for there in self._open.values():
                if session in there:
                    there.remove(session)
        session.close()
