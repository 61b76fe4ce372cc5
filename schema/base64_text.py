"""Base64 as clients send it inside JSON: some encoders, that of the reference's C++ client among them, break lines."""

from __future__ import annotations

import base64
from typing import Final

_SPACE: Final = str.maketrans("", "", " \t\n\r\v\f")


def decode_base64(text: str) -> bytes:
    """The bytes. White space means nothing; anything else outside the alphabet, or half an end, raises ValueError."""
    return base64.b64decode(text.translate(_SPACE), validate=True)
