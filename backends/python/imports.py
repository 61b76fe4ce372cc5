"""A private module space for each instance of each Python model, so that models with equal file names do not meet.

The reference server gives each instance its own process; there a model may `import helper`, `from . import helper` or
`import helper` late, inside `execute`, and every instance has its own globals. Here many instances share one process
and one `sys.modules`, so each instance's modules live under a package name of its own:

    despina_model_7            __path__ = [version directory, model directory]
    despina_model_7.model      the model.py
    despina_model_7.helper     what it imports from beside itself

Relative imports work by themselves. For absolute ones, the modules of the package get `__builtins__` whose `__import__`
looks beside the model for names that are not installed. Nothing global is swapped, so loading is safe on any number
of threads, and nothing is written into the repository: no bytecode is cached, which also means that a changed file is
always read.

Limits: `importlib.import_module("helper")` and unpickling a class of `helper` do not see the model's directory.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import importlib.util
import itertools
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PREFIX = "despina_model_"

only_space: Space | None = None
"""In the process of one model: its own."""

_numbers = itertools.count(1)
_spaces: dict[str, ModelImports] = {}


class Space(Protocol):
    """What is found by whoever calls: a model's own."""

    asker: object

    @property
    def version_path(self) -> Path | str: ...


class ModelImports:
    """One instance's modules. Made, used and closed on any one thread."""

    def __init__(self, version_path: Path, folders: Sequence[str]) -> None:
        """`folders` are where its modules are, the version's first."""
        self.version_path = version_path
        self.package = f"{PREFIX}{next(_numbers)}"
        self._paths = [*folders]
        self.asker: object = None
        """What its model asks other models with, while it may."""
        self.builtins = {**vars(builtins), "__import__": self._import}
        package = ModuleType(self.package)
        package.__path__ = self._paths
        _install_finder()
        _spaces[self.package] = self
        sys.modules[self.package] = package

    def load(self, file: Path) -> ModuleType:
        """Executes the model's own file. Raises whatever it raises."""
        name = f"{self.package}.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def close(self) -> None:
        """Forgets the modules; objects of them that are still in use keep working."""
        _spaces.pop(self.package, None)
        for name in [name for name in list(sys.modules) if name == self.package or name.startswith(f"{self.package}.")]:
            del sys.modules[name]

    def find_spec(self, name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(name, spec.loader.path)
        return spec

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002  the signature of builtins.__import__
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0 and self._is_beside(name.partition(".")[0]):
            module = importlib.import_module(f"{self.package}.{name}")
            if fromlist:
                return builtins.__import__(module.__name__, globals, locals, fromlist, 0)
            return sys.modules[f"{self.package}.{name.partition('.')[0]}"]
        return builtins.__import__(name, globals, locals, fromlist, level)

    def _is_beside(self, top: str) -> bool:
        """True where only the model's directories have this module: installed ones win, as on the reference server."""
        if f"{self.package}.{top}" in sys.modules:
            return True
        if top in sys.modules or top in sys.stdlib_module_names:
            return False
        if importlib.machinery.PathFinder.find_spec(top, self._paths) is None:
            return False
        try:
            installed = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return True
        # A directory without __init__.py anywhere on sys.path counts as a package, but any real module goes before it.
        return installed is None or installed.origin is None


class _Loader(importlib.machinery.SourceFileLoader):
    """Source only, with the instance's own `__import__`."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        space = _spaces.get(module.__name__.partition(".")[0])
        if space is not None:
            module.__dict__["__builtins__"] = space.builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of the packages above, and no others."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> Any:
        if not name.startswith(PREFIX):
            return None
        space = _spaces.get(name.partition(".")[0])
        return None if space is None else space.find_spec(name, path)


_finder_lock = threading.Lock()


def _install_finder() -> None:
    with _finder_lock:
        if _Finder not in sys.meta_path:
            sys.meta_path.insert(0, _Finder)


def version_path_of_caller() -> str | None:
    """The version directory of the nearest model on the call stack; works on threads that a model started, too."""
    space = space_of_caller()
    return None if space is None else str(space.version_path)


def space_of_caller() -> Space | None:
    """The modules of the nearest model on the call stack, as above."""
    frame = sys._getframe(1)
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        space = _spaces.get(package)
        if space is not None:
            return space
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return only_space
