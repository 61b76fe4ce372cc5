"""What ONNX Runtime raises, in the words that users of the protocol know."""

from __future__ import annotations

import re

_MARK = re.compile(r"\[ONNXRuntimeError\] : (\d+) : \w+ : ?", re.ASCII)


def failure_text(error: Exception) -> str:
    """`onnx runtime error <code>: <text>`, as one paragraph; other exceptions give `<Type>: <text>`."""
    text = str(error).strip()
    found = _MARK.match(text)
    if found is None:
        return f"onnx runtime error: {type(error).__name__}: {text}"
    return f"onnx runtime error {found[1]}: {text[found.end() :].strip()}"
