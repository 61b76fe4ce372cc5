"""Where in a config.pbtxt a fault belongs that was found in what it means, not in how it is written.

A message names what it is about: first what it quotes, then words that are names of fields. The first of them that
stands in the text is the place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ....schema.pbtxt_scanner import NAME, STRING, Positions, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ....schema.pbtxt_scanner import Token

_QUOTED: Final = re.compile(r"'([^'\s]+)'|\"([^\"\s]+)\"")
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_PLAIN: Final = frozenset({"name", "input", "output", "model", "value", "key", "count", "kind", "priority", "step"})
"""Fields that are words of any sentence."""


def place_of(message: str, text: str, model_name: str) -> tuple[int, int]:
    """Line and column, from 1; (1, 1) where nothing of the message stands in the text."""
    tokens = [token for token in scan(text) if token.kind in (NAME, STRING)]
    for wanted in _names(message, model_name):
        for token in tokens:
            if _said(token) in (wanted, f"{wanted}s"):  # `priority level` is about `priority_levels`
                return Positions(text).of(token.offset)
    return 1, 1


def _names(message: str, model_name: str) -> Iterator[str]:
    for one, other in _QUOTED.findall(message):
        if (one or other) != model_name:
            yield one or other
    words = [word.rstrip(".") for word in _WORD.findall(message)]
    yield from (word for word in words if "_" in word and word != model_name)
    # "dynamic batching", "max batch size": fields as sentences say them
    for at in range(len(words) - 1):
        yield from ("_".join(words[at : at + size]) for size in (3, 2))
    yield from (word for word in words if word != model_name and word not in _PLAIN and len(word) > 3)
    yield from (word for word in words if word in _PLAIN)
    yield model_name


def _said(token: Token) -> str:
    return token.text[1:-1] if token.kind == STRING else token.text
