"""The Python of a sketch: of a library in C++ that takes a native backend's batch in one call, and has no server.

It is what native_batch.py measures beside this project: descriptions of tensors in one array of structures, filled for
each batch, one call, outputs copied out of the library's buffers. Needs the sketch's folder, a compiler, and cffi.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from typing import TYPE_CHECKING, Any, Final

from despina.native.build import compiler
from despina.native.loading import built_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from despina.schema.inference import InferenceRequest

MODULE: Final = "batch_sketch"
BATCH_MAX: Final = 256
_TEXT: Final = 4096
"""Bytes for what an error says."""
_NUMBERS: Final = {"FP32": 11}
_NAMES: Final = {number: name for name, number in _NUMBERS.items()}


class MissingSketch(Exception):
    """Why there is none to be measured."""


def build_sketch(source: Path, folder: Path) -> None:
    """Compiles it into the folder. Raises MissingSketch where the sources, or cffi, are not there."""
    if not (source / "core.cc").is_file() or not (source / "tsx.h").is_file():
        raise MissingSketch(f"no core.cc and tsx.h in {source}")
    try:
        from cffi import FFI
    except ImportError:
        raise MissingSketch("it needs cffi, which is not installed") from None
    ffi = FFI()
    ffi.cdef((source / "tsx.h").read_text())
    ffi.set_source(MODULE, '#include "tsx.h"')
    ffi.emit_c_code(str(folder / "module.c"))
    include = [f"-I{source}", f"-I{built_folder() / 'include'}"]
    shared = ["-O2", "-fPIC", "-shared", "-w"]
    nothing = ['-DDEF_LIBPYTHON=""', '-DDEF_PYTHON=""']
    library = folder / "libtritonserver.so"
    _run([*shared, "-std=c++17", *nothing, *include, str(source / "core.cc"), "-o", str(library)], "-lpthread", "-ldl")
    python = [f"-I{sysconfig.get_path('include')}", "-x", "c", str(folder / "module.c"), "-o", str(_path(folder))]
    _run([*shared, *include, *python, "-x", "none", str(library)], f"-Wl,-rpath,{folder}")


def _path(folder: Path) -> Path:
    return folder / f"{MODULE}.so"


def _run(arguments: Sequence[str], *libraries: str) -> None:
    command = compiler()
    subprocess.run([*command, *arguments, *libraries], check=True)


class Sketch:
    """An instance of a backend's."""

    def __init__(self, library: Path, folder: Path) -> None:
        import ctypes

        ctypes.CDLL(str(folder / "libtritonserver.so"), mode=ctypes.RTLD_GLOBAL)  # backends find its functions so
        spec = importlib.util.spec_from_file_location(MODULE, _path(folder))
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._ffi, self._lib = ffi, lib = module.ffi, module.lib
        self._error = error = ffi.new("char[]", _TEXT)
        self._texts = texts = {
            text: ffi.new("char[]", text.encode())
            for text in (str(library), str(library.parent), "identity", "m", "m_0", ".", "{}", "INPUT0", "OUTPUT0")
        }
        path, parent = texts[str(library)], texts[str(library.parent)]
        backend = self._checked(lib.tsx_backend_open(path, texts["identity"], parent, texts["{}"], error, _TEXT))
        of_model = (backend, texts["m"], 1, texts["."], texts["{}"], 0, 0, ffi.NULL, error, _TEXT)
        model = self._checked(lib.tsx_model_new(*of_model))
        queue = lib.tsx_queue_new(-1)
        self._instance = self._checked(
            lib.tsx_instance_new(model, texts["m_0"], 1, 0, texts["{}"], queue, error, _TEXT)
        )
        self._inputs = ffi.new("tsx_tensor[]", BATCH_MAX)
        self._results = ffi.new("tsx_tensor[]", BATCH_MAX)
        self._responses = ffi.new("void*[]", BATCH_MAX)
        self._heads: list[Any] = []
        self._outputs = ffi.new("char*[]", [texts["OUTPUT0"]])
        self._wanted = ffi.cast("const char**", self._outputs)

    def caller(self, scope: str, requests: Sequence[InferenceRequest]) -> Callable[[], object]:
        """Executes them. What it gives is for `answers`."""
        if scope == "one form":
            found = self._execute(requests)  # which leaves the descriptions behind
            self._heads = [one[:3] for one in found]
            return lambda: self._execute_one_form(requests)
        return lambda: self._execute(requests)

    def answers(self, found: Any) -> Any:
        """Name, datatype, shape, bytes of each request's output."""
        if found and isinstance(found[0], bytes):
            return [(*head, data) for head, data in zip(self._heads, found, strict=True)]
        return found

    def _checked(self, pointer: Any) -> Any:
        assert pointer != self._ffi.NULL, self._ffi.string(self._error)
        return pointer

    def _execute(self, requests: Sequence[InferenceRequest]) -> list[tuple[str, str, tuple[int, ...], bytes]]:
        ffi, free, texts, described = self._ffi, self._lib.tsx_response_free, self._texts, self._inputs
        from_buffer, buffer, text = ffi.from_buffer, ffi.buffer, ffi.string
        held, place = [], 0
        for request in requests:
            for name, tensor in request.inputs.items():
                item, shape, data = described[place], tensor.shape, tensor.memory()
                place += 1
                item.name, item.dtype, item.ndim = texts[name], _NUMBERS[tensor.datatype], len(shape)
                item.shape[0 : len(shape)] = shape
                base = from_buffer(data)
                held.append(base)
                item.base, item.size = base, len(data)
        self._run(len(requests))
        answers = []
        for place, response in enumerate(self._responses[0 : len(requests)]):
            item = self._results[place]
            data = buffer(item.base, item.size)[:]
            shape = tuple(item.shape[0 : item.ndim])
            answers.append((text(item.name).decode(), _NAMES[item.dtype], shape, data))
            free(response)
        return answers

    def _execute_one_form(self, requests: Sequence[InferenceRequest]) -> list[bytes]:
        """Their outputs' bytes, where all else is as the last time."""
        described, from_buffer, buffer = self._inputs, self._ffi.from_buffer, self._ffi.buffer
        held = []
        for place, request in enumerate(requests):
            data = request.inputs["INPUT0"].memory()
            base = from_buffer(data)
            held.append(base)
            item = described[place]
            item.base, item.size = base, len(data)
        self._run(len(requests))
        answers, free = [], self._lib.tsx_response_free
        for place, response in enumerate(self._responses[0 : len(requests)]):
            item = self._results[place]
            answers.append(buffer(item.base, item.size)[:])
            free(response)
        return answers

    def _run(self, count: int) -> None:
        """The one call."""
        error, results, responses = self._error, self._results, self._responses
        done = self._lib.tsx_run_batch(
            self._instance, count, 1, self._inputs, 1, self._wanted, results, 1, responses, error, _TEXT
        )
        assert done == count, self._ffi.string(error)
