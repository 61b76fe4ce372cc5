"""Which backends are installed: entry points of the group `despina.backends`, loaded when a model first needs one."""

from __future__ import annotations

import difflib
import logging
import threading
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint

    from ..port.backend import Backend

log = logging.getLogger("despina.engine.repository.discovery")

GROUP = "despina.backends"

FOR_ALL = frozenset({"default-max-batch-size"})
"""The settings that every backend may be given."""


class Backends:
    """Backends by name. `get` may be called from any thread.

    `config` is what `--backend-config` said, by backend; a setting that nobody reads is passed on, as by the reference
    server, with a warning: at once where no such backend is installed, else when the backend is first needed.
    """

    def __init__(
        self, given: Mapping[str, Backend] | None = None, config: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    ) -> None:
        self._loaded: dict[str, Backend] = dict(given or {})
        """Backends handed over by the embedding program come first; entry points fill up."""
        self._entries: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
        self._lock = threading.Lock()
        self._config = config
        self._needed: set[str] = set()
        for name in sorted({*config} - {"", *self._loaded, *self._entries}):
            log.warning("--backend-config %s,...: no backend '%s' is installed.%s", name, name, self._hint(name))
        for setting in sorted({*config.get("", {})} - FOR_ALL):
            log.warning(
                "--backend-config %s=...: no setting for all backends (there is %s); each is given it nevertheless.",
                setting,
                ", ".join(FOR_ALL),
            )

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
            if name not in self._needed:
                self._needed.add(name)
                self._check_settings(name, backend)
            return backend

    def loaded(self) -> Mapping[str, Backend]:
        """Those in use so far."""
        return dict(self._loaded)

    def _check_settings(self, name: str, backend: Backend) -> None:
        known: Mapping[str, str] | None = getattr(backend, "settings", None)
        if known is None:
            return
        for setting in sorted({*self._config.get(name, {})} - FOR_ALL):
            without_effect = known.get(setting)
            if without_effect is None:
                hint = _nearest(setting, known)
                log.warning("--backend-config %s,%s=...: the backend has no such setting.%s", name, setting, hint)
            elif without_effect:
                log.info("--backend-config %s,%s=... has no effect here (%s).", name, setting, without_effect)

    def _hint(self, name: str) -> str:
        known = sorted({*self._loaded, *self._entries})
        return _nearest(name, known) or f" Installed backends: {', '.join(known) or 'none'}."


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
