"""Runs a repository's `model.py` files as they are, in this process."""

from .backend import PythonBackend

__all__ = ["PythonBackend"]
