"""Runs a repository's `model.py` files as they are, each instance in a process of its own or in the server's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import PythonBackend

__all__ = ["PythonBackend"]


def __getattr__(name: str) -> Any:
    """The backend is imported when it is asked for: a model's own process does not need it."""
    if name != "PythonBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .backend import PythonBackend

    return PythonBackend
