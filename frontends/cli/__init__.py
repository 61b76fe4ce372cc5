"""The command `despina`: one module per verb."""

from .main import main

__all__ = ["main"]
