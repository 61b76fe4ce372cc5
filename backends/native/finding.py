"""Where the library of a backend is: with the model's version, with the model, or in the backends' directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from ...engine.port.backend import ModelContext

DIRECTORY_SETTING = "backend-directory"
DEFAULT_DIRECTORY = "/opt/tritonserver/backends"


def library_of(name: str, context: ModelContext) -> Path:
    """The first there is. Raises InvalidArgument, in the protocol's words, where there is none."""
    root = Path(context.backend_config.get(DIRECTORY_SETTING) or DEFAULT_DIRECTORY)
    folders = (context.version_path, context.model_path, root / name)
    asked = context.config.runtime
    if asked:
        for folder in folders:
            if (folder / asked).is_file():
                return folder / asked
        searched = "".join(f" '{folder}'" for folder in folders)
        raise InvalidArgument(
            f"unable to find backend library '{asked}' for model '{context.name}', searched:{searched}"
        )
    for folder in folders:
        path = folder / f"libtriton_{name}.so"
        if path.is_file():
            return path
    raise InvalidArgument(
        f"unable to find backend library for backend '{name}', try specifying runtime on the model configuration."
    )
