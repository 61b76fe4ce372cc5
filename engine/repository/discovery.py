"""Which backends are installed: entry points of the group `despina.backends`, loaded when a model first needs one."""

from __future__ import annotations

import difflib
import logging
import threading
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint

    from ..port.backend import Backend

log = logging.getLogger("despina.engine.repository.discovery")

GROUP = "despina.backends"
ANY = "*"
"""The entry point that is asked for a backend of any name that no other has: it is called with the name."""

FOR_ALL = frozenset({"default-max-batch-size", "backend-directory"})
"""The settings that every backend may be given."""


class Backends:
    """Backends by name. `get` may be called from any thread.

    `config` is what `--backend-config` said, by backend; a setting that nobody reads is passed on, as by the reference
    server, with a warning: at once where no such backend is installed, else when the backend is first needed.
    """

    def __init__(
        self,
        given: Mapping[str, Backend] | None = None,
        config: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        directory: str = "",
    ) -> None:
        """`directory` is where backends are that are written in Python: `<directory>/<name>/model.py`."""
        self._loaded: dict[str, Backend] = dict(given or {})
        """Backends handed over by the embedding program come first; entry points fill up."""
        self._entries: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=GROUP)}
        self._any = self._entries.pop(ANY, None)
        self._lock = threading.Lock()
        self._config = config
        self._directory = directory
        self._needed: set[str] = set()
        for name in sorted({*config} - {"", *self._loaded, *self._entries}):
            if self._folder(name) is not None:
                continue
            log.warning("--backend-config %s,...: no backend '%s' is installed.%s", name, name, self._hint(name))
        for setting in sorted({*config.get("", {})} - FOR_ALL):
            log.warning(
                "--backend-config %s=...: no setting for all backends (there is %s); each is given it nevertheless.",
                setting,
                ", ".join(sorted(FOR_ALL)),
            )

    def get(self, name: str) -> Backend:
        """The backend of that name. Raises InvalidArgument when there is none, or it does not load."""
        with self._lock:
            backend = self._loaded.get(name)
            if backend is None:
                backend = self._load(name)
                self._loaded[name] = backend
            if name not in self._needed:
                self._needed.add(name)
                self._check_settings(name, backend)
            return backend

    def loaded(self) -> Mapping[str, Backend]:
        """Those in use so far."""
        return dict(self._loaded)

    def _load(self, name: str) -> Backend:
        entry = self._entries.get(name)
        folder = None if entry is not None else self._folder(name)
        if folder is not None:
            python: Any = self._loaded.get("python") or self._load("python")
            based: Backend = python.based(name, folder)
            return based
        if entry is None and self._any is not None:
            hint = _nearest(name, {*self._loaded, *self._entries})
            log.log(
                logging.WARNING if hint else logging.INFO,
                "no package has a backend '%s': libtriton_%s.so is looked for.%s",
                name,
                name,
                hint,
            )
            library: Backend = self._any.load()(name)
            return library
        if entry is None:
            log.error("no backend '%s' is installed.%s", name, self._hint(name))
            raise InvalidArgument(
                f"unable to find backend library for backend '{name}', try specifying runtime on the model "
                "configuration."
            )
        try:
            backend: Backend = entry.load()()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise InvalidArgument(
                f"backend '{name}' of entry point '{entry.value}' failed to load: {reason}"
            ) from error
        return backend

    def _folder(self, name: str) -> Path | None:
        """Of a backend that is written in Python."""
        if not self._directory or not name or name.startswith(".") or "/" in name:
            return None  # a client may name it
        folder = Path(self._directory) / name
        is_library = (folder / f"libtriton_{name}.so").is_file()
        return folder if (folder / "model.py").is_file() and not is_library else None

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
