"""Which file a model is, and where it finds its modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ...schema.fault import Internal, InvalidArgument

if TYPE_CHECKING:
    from pathlib import Path

    from ...engine.port.backend import ModelContext


@attrs.frozen
class Source:
    """Of one version."""

    file: Path
    folders: list[str]
    """The version's, the model's, and its backend's, if that is written in Python."""

    @classmethod
    def of(cls, context: ModelContext, backend_folder: Path | None) -> Source:
        """Raises InvalidArgument, Internal where there is no such file."""
        folders = [str(context.version_path), str(context.model_path)]
        if backend_folder is not None:
            return cls(backend_folder / "model.py", [*folders, str(backend_folder)])
        name = context.config.default_model_filename or "model.py"
        if not name.endswith(".py"):
            raise InvalidArgument(f"model '{context.name}': a Python model's file must end in '.py', got '{name}'")
        path = context.version_path / name
        if not path.is_file():
            raise Internal(f"Python model file not found in '{path}'")
        return cls(path, folders)
