"""Opens the library of a backend, and models in it: in this process, or in processes of their own.

One object of this class for each name that no Python package has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...native.loading import extension
from ...schema.fault import InvalidArgument
from .configuration import answer_library
from .finding import library_of
from .isolated import IsolatedLibraryModel
from .model import KINDS, NativeModel

if TYPE_CHECKING:
    from ...engine.port.backend import InstanceKind, ModelContext

ISOLATION = "native_isolation"
"""A model's parameter, and a setting of any backend's."""
_PREFERRED: dict[int, InstanceKind] = {number: kind for kind, number in KINDS.items()}


class NativeBackend:
    """The backend of one name. Libraries are initialized with their first model and finalized with their last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.preferred_kind: InstanceKind | None = None
        """What the library has asked for that was loaded last."""

    def open_model(self, context: ModelContext) -> NativeModel | IsolatedLibraryModel:
        library = library_of(self.name, context)
        model: NativeModel | IsolatedLibraryModel
        if _is_isolated(context):
            model = IsolatedLibraryModel(self.name, library, context)
        else:
            native = extension()
            answer_library(native)
            model = NativeModel(native, self.name, library, context)
        self.preferred_kind = _PREFERRED.get(model.preferred_kind)
        return model

    def config_summary(self) -> str:
        return f"C++ library, runs in this process, or with the parameter {ISOLATION} in its own"


def _is_isolated(context: ModelContext) -> bool:
    """Whether the model's instances run in processes of their own, by its parameter, else by the backend's setting.
    Raises InvalidArgument."""
    parameter = context.config.parameters.get(ISOLATION)
    chosen = context.backend_config.get(ISOLATION, "none") if parameter is None else parameter.string_value
    if chosen not in ("none", "process"):
        raise InvalidArgument(
            f"unable to load model '{context.name}': {ISOLATION} must be 'none' or 'process', got '{chosen}'"
        )
    return chosen == "process"
