"""What frameworks tell their makers about the machine and its programs: nothing, unless somebody asks for it.

ONNX Runtime's wheels send events and keep a database under ~/.cache/Microsoft from the moment of their import on.
OpenVINO's converter of models sends events through a package of its own, unless that is not there.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_SWITCH = "ORT_DISABLE_TELEMETRY"


def refuse_telemetry() -> None:
    """Called before anything imports ONNX Runtime: a backend's own import or a model's. `ORT_DISABLE_TELEMETRY=0` in
    the environment asks for telemetry. For this process and its children."""
    os.environ.setdefault(_SWITCH, "1")


def stop_telemetry(ort: Any) -> None:
    """For an ONNX Runtime that the program had imported before."""
    if os.environ.get(_SWITCH) != "0":
        disable = getattr(ort, "disable_telemetry_events", None)  # older releases have nothing to disable
        if disable is not None:
            disable()


_openvino_import = threading.Lock()
_OPENVINO_SENDER = "openvino_telemetry"


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Around OpenVINO's first import: it does not find its sender, and has a silent one of its own for that. For the
    whole process; a program that had imported either before has chosen for itself."""
    with _openvino_import:
        if "openvino" in sys.modules or _OPENVINO_SENDER in sys.modules:
            yield
            return
        sys.modules[_OPENVINO_SENDER] = cast("ModuleType", None)  # the import system's word for: there is none
        try:
            yield
        finally:
            del sys.modules[_OPENVINO_SENDER]
