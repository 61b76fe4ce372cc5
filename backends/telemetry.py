"""What frameworks tell their makers about the machine and its programs: nothing, unless somebody asks for it.

ONNX Runtime's wheels send events and keep a database under ~/.cache/Microsoft from the moment of their import on.
"""

from __future__ import annotations

import os
from typing import Any

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
