"""The tables that a starting server prints: backends, models, and every setting that holds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ...schema.release import RELEASE
from .help import shown
from .options import OPTIONS
from .table import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...engine.engine import Engine
    from .settings import ServeSettings


def backends_table(engine: Engine) -> str:
    """The backends that the loaded models use."""
    rows = [
        (name, _directory(backend), backend.config_summary())
        for name, backend in sorted(engine.backends.loaded().items())
    ]
    return table(("Backend", "Path", "Config"), rows)


def agents_table(engine: Engine) -> str:
    """The repository agents that the loaded models use."""
    rows = [(name, _directory(agent)) for name, agent in sorted(engine.agents.loaded().items())]
    return table(("Repository Agent", "Path"), rows)


def models_table(engine: Engine) -> str:
    """Every version that the engine has tried to load, with the reason where it does not serve; and models of which
    there is none, because their directory or configuration could not be read."""
    rows = []
    for name, entry in sorted(engine.registry.models.items()):
        if not entry.versions:
            rows.append((name, "-", f"Not loaded: {entry.why_not_loaded()}"))
        for number, version in sorted(entry.versions.items()):
            status = f"{version.state.value}: {version.reason}" if version.reason else version.state.value
            rows.append((name, str(number), status))
    return table(("Model", "Version", "Status"), rows)


def options_table(settings: ServeSettings, engine: Engine) -> str:
    """The server's identity and every option that has a meaning, with the value in effect."""
    about = engine.metadata()
    rows = [
        ("server_id", about.name),
        ("server_version", about.version),
        ("despina_version", RELEASE),
        ("server_extensions", " ".join(about.extensions)),
    ]
    rows += [(f"model_repository_path[{index}]", path) for index, path in enumerate(settings.engine.model_repository)]
    done = {"engine.id", "engine.model_repository"}
    for option in OPTIONS.values():
        if option.target and option.target not in done:
            done.add(option.target)
            value = getattr(getattr(settings, option.part), option.field_name)
            rows.append((option.name.replace("-", "_"), _listed(option.name, value)))
    return table(("Option", "Value"), rows)


def _directory(plugin: object) -> str:
    module = sys.modules.get(type(plugin).__module__)
    return os.path.dirname(os.path.realpath(getattr(module, "__file__", None) or ""))


def _listed(name: str, value: object) -> str:
    if name in ("http-restricted-api", "grpc-restricted-protocol"):
        restricted: Mapping[str, tuple[bytes, bytes]] = value  # type: ignore[assignment]  # the option says what it is
        return " ".join(f"{api} ({key.decode()})" for api, (key, _) in restricted.items())  # not the secret
    if name == "cache-config":
        caches: Mapping[str, Mapping[str, str]] = value  # type: ignore[assignment]  # the option says what it is
        return " ".join(
            f"{cache},{setting}={'...' if setting == 'password' else text}"  # not the secret
            for cache, pairs in caches.items()
            for setting, text in pairs.items()
        )
    if name == "backend-config":
        folded: Mapping[str, Mapping[str, str]] = value  # type: ignore[assignment]  # the option says what it is
        return " ".join(
            f"{backend + ',' if backend else ''}{setting}={text}"
            for backend, pairs in folded.items()
            for setting, text in pairs.items()
        )
    if isinstance(value, tuple):
        return " ".join("=".join(item) if isinstance(item, tuple) else str(item) for item in value)
    return shown(value)
