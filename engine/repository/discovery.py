"""Which backends are installed: entry points of the group `despina.backends`, loaded when a model first needs one."""

from __future__ import annotations

import difflib
import logging
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

    from ..port.backend import Backend

log = logging.getLogger("despina.engine.repository.discovery")

GROUP = "despina.backends"


class Backends:
    """Backends by name. `get` may be called from any thread."""

    def __init__(self, given: Mapping[str, Backend] | None = None) -> None:
        self._loaded: dict[str, Backend] = dict(given or {})
        """Backends handed over by the embedding program come first; entry points fill up."""
        self._entries: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
        self._lock = threading.Lock()

    def get(self, name: str) -> Backend:
        """The backend of that name. Raises InvalidArgument when there is none, or it does not load."""
        with self._lock:
            backend = self._loaded.get(name)
            if backend is None:
                entry = self._entries.get(name)
                if entry is None:
                    log.error("no backend '%s' is installed.%s", name, self._hint(name))
                    raise InvalidArgument(
                        f"unable to find backend library for backend '{name}', try specifying runtime on the model "
                        "configuration."
                    )
                try:
                    backend = entry.load()()
                except Exception as error:
                    reason = f"{type(error).__name__}: {error}"
                    raise InvalidArgument(
                        f"backend '{name}' of entry point '{entry.value}' failed to load: {reason}"
                    ) from error
                self._loaded[name] = backend
            return backend

    def loaded(self) -> Mapping[str, Backend]:
        """Those in use so far."""
        return dict(self._loaded)

    def _hint(self, name: str) -> str:
        known = sorted({*self._loaded, *self._entries})
        near = difflib.get_close_matches(name, known, n=1)
        return f" Did you mean '{near[0]}'?" if near else f" Installed backends: {', '.join(known) or 'none'}."
