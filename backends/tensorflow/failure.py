"""What TensorFlow raises, in one line's worth of text."""

from __future__ import annotations


def failure_text(error: Exception) -> str:
    """TensorFlow's own message without the parts that only say where in Python the graph was made."""
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    return text.split("\n\nOriginal stack trace", 1)[0].strip()
