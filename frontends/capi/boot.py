"""What the library calls when it has found, or started, its interpreter."""

from __future__ import annotations

from pathlib import Path

from ...native.loading import extension, use_folder
from .control import answer_library, own_interpreter


def attach(library_folder: str, owned: bool) -> None:
    """From now on the library can call Python. `owned` says that it has started the interpreter, whose logging is then
    its own affair, too."""
    use_folder(Path(library_folder).parent)
    own_interpreter(owned)
    answer_library(extension())
