"""Where the built library is, and its extension module.

A wheel that was built where there is a C++ compiler has it inside (`native/built`). Elsewhere, and in a checkout, it is
built on first use, into `$DESPINA_NATIVE_CACHE` or `~/.cache/despina/native`, a folder for each state of the sources.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..schema.fault import Unavailable
from .build import EXTENSION, SOURCES, CannotBuild, build, fingerprint

if TYPE_CHECKING:
    from .extension_port import Extension

MODULE = "despina.native._native"
CACHE = "DESPINA_NATIVE_CACHE"
VERSION = "0.1.0"

_lock = threading.Lock()
_folder: Path | None = None


def use_folder(folder: Path) -> None:
    """The library of that folder is loaded already: its extension module is the only one that fits."""
    global _folder
    with _lock:
        _folder = folder


def built_folder() -> Path:
    """With include/, lib/ and pkgconfig/. Builds it if need be, which takes some ten seconds. Raises Unavailable."""
    global _folder
    with _lock:
        if _folder is None:
            shipped = SOURCES / "built"
            _folder = shipped if shipped.is_dir() else _from_cache()
        return _folder


def _from_cache() -> Path:
    try:
        target = _cache() / fingerprint()
        if not target.is_dir():
            build(target, version=VERSION, for_this_python=True)
    except (CannotBuild, OSError) as problem:
        raise Unavailable(f"the native library of despina is not built: {problem}") from problem
    return target


def _cache() -> Path:
    given = os.environ.get(CACHE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "despina", "native")


def extension() -> Extension:
    """The module that speaks to the library. Raises Unavailable."""
    loaded = sys.modules.get(MODULE)
    if loaded is None:
        path = str(built_folder() / "lib" / EXTENSION)
        with _lock:
            loaded = sys.modules.get(MODULE)
            if loaded is None:
                loader = importlib.machinery.ExtensionFileLoader(MODULE, path)
                spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
                assert spec is not None, "there is a loader"
                loaded = importlib.util.module_from_spec(spec)
                loader.exec_module(loaded)
                sys.modules[MODULE] = loaded
    return cast("Extension", loaded)
