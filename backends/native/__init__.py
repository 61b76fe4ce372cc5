"""Backends, repository agents and caches in C++: libraries that were written for Triton, or for this. See README.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent import NativeAgent
    from .backend import NativeBackend
    from .cache import native_cache

__all__ = ["NativeAgent", "NativeBackend", "native_cache"]
_MODULES = {"NativeAgent": "agent", "NativeBackend": "backend", "native_cache": "cache"}


def __getattr__(name: str) -> Any:
    """When it is asked for: the process of a library imports as little as it can."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
