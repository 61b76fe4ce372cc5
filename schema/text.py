"""Text that comes from anybody and goes out as UTF-8."""

from __future__ import annotations


def encodable(text: str) -> str:
    """`text` as UTF-8 can have it: halves of surrogate pairs that belong together are joined, others are replaced.

    Python's strings may hold lone surrogates: bytes that were no text (file names), JSON's escapes, slips of a model.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can have it as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
