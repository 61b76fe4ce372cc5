"""What OpenVINO raises, in the words that users of the protocol know."""

from __future__ import annotations


def failure_text(doing: str, error: Exception) -> str:
    """`openvino error in <doing> : <text>`, without the lines that only say where in OpenVINO's source it was."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ")]
    return f"openvino error in {doing} : {'; '.join(said) or type(error).__name__}"
