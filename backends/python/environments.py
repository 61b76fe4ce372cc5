"""Which interpreter a model's process is, with which packages: the server's, or that of an environment of its own.

An environment is a folder (a virtual environment, an unpacked conda environment), or an archive of one as conda-pack
makes it, which is unpacked for as long as models use it: once, for all of them.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from ...engine.repository.temporary import TemporaryDirectory
from ...schema.fault import InvalidArgument
from .unpacking import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.port.backend import ModelContext

PARAMETER: Final = "EXECUTION_ENV_PATH"
MODEL_DIRECTORY: Final = "$$TRITON_MODEL_DIRECTORY"
OF_BACKEND: Final = "pb_exec_env_model.py.tar.gz"
"""Beside the `model.py` of a Python-based backend: the environment of models that name none."""

log = logging.getLogger("despina.backends.python")


@attrs.frozen
class Environment:
    """An interpreter, and what its process finds in its environment. `close` lets go of it, once."""

    python: str
    variables: dict[str, str]
    close: Callable[[], None]


class _Unpacked:
    """An archive that models use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.folder: TemporaryDirectory | None = None


class Environments:
    """Of one backend. For any thread; unpacking blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unpacked: dict[object, _Unpacked] = {}
        """By the archive's place, and what tells it from one that was there before."""

    def of(self, context: ModelContext, backend_folder: Path | None) -> Environment | None:
        """The one that a model names, else that of its Python-based backend; None for the server's own.

        Raises InvalidArgument where there is none at that place, or none may be unpacked.
        """
        parameter = context.config.parameters.get(PARAMETER)
        if parameter is not None:
            path = Path(parameter.string_value.replace(MODEL_DIRECTORY, str(context.model_path)))
        elif backend_folder is not None and (backend_folder / OF_BACKEND).is_file():
            path = backend_folder / OF_BACKEND
        else:
            return None
        try:
            return self._at(path)
        except InvalidArgument as fault:
            raise InvalidArgument(f"unable to load model '{context.name}': {PARAMETER}: {fault.message}") from fault
        except OSError as error:
            raise InvalidArgument(f"unable to load model '{context.name}': {PARAMETER} '{path}': {error}") from error

    def _at(self, path: Path) -> Environment:
        if path.is_dir():
            return _in(path, lambda: None)
        about = path.stat()
        key = (path.resolve(), about.st_mtime_ns, about.st_size)
        with self._lock:
            one = self._unpacked.setdefault(key, _Unpacked())
            one.users += 1

        def let_go() -> None:
            with self._lock:
                one.users -= 1
                if one.users:
                    return
                del self._unpacked[key]
            if one.folder is not None:
                one.folder.remove()

        try:
            with one.lock:
                if one.folder is None:
                    one.folder = _unpacked(path)
            return _in(one.folder.path / "environment", let_go)
        except BaseException:
            let_go()
            raise


def _unpacked(archive: Path) -> TemporaryDirectory:
    log.info("unpacking the environment '%s'", archive)
    folder = TemporaryDirectory()
    try:
        place = folder.path / "environment"
        place.mkdir()
        unpack(archive, place)
    except BaseException:
        folder.remove()
        raise
    return folder


def _in(folder: Path, close: Callable[[], None]) -> Environment:
    programs = folder / "bin"
    python = next((one for one in (programs / "python", programs / "python3") if one.exists()), None)
    if python is None:
        raise InvalidArgument(f"there is no bin/python in '{folder}'")
    kind = "VIRTUAL_ENV" if (folder / "pyvenv.cfg").exists() else "CONDA_PREFIX"
    variables = {
        kind: str(folder),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder / "lib"), os.environ.get("LD_LIBRARY_PATH")])),
    }
    return Environment(str(python.absolute()), variables, close)
