"""A model's modules in a process of its own: found on sys.path, like anybody's."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from .. import imports

if TYPE_CHECKING:
    from pathlib import Path


class OwnImports:
    """See modules.py: Imports. Nothing has to be kept apart here: the file is `<version>.model`, on which a model may
    rely for relative imports and for pickling."""

    def __init__(self, version: int, paths: list[str]) -> None:
        """`paths` are where its modules are, the version's directory first."""
        self.version_path = paths[0]
        self.asker: object = None
        imports.only_space = self
        sys.dont_write_bytecode = True  # a repository is read only
        sys.path.extend(paths)
        self._package = package = ModuleType(str(version))
        package.__path__ = paths
        sys.modules[package.__name__] = package

    def load(self, file: Path) -> ModuleType:
        name = f"{self._package.__name__}.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def close(self) -> None:
        """The process ends soon."""
