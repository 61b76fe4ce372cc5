"""The tokens of protobuf's text format: where they stand, and what a string literal says."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME, NUMBER, STRING, MARK, END = "name", "number", "string", "mark", "end"
"""Kinds of token. A MARK is any other single character, meaningful or not."""

_SKIPPED = re.compile(r"(?:[ \t\r\v\f\n]|#[^\n]*)*")
_TOKEN = re.compile(
    r"""
    (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>-?[ \t\r\v\f\n]*(?:\.?[0-9])(?:[eE][+-]?(?=[0-9.])|[0-9A-Za-z_.])*)
  | (?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*(?:"|\\?(?=\n|\Z))|'[^'\\\n]*(?:\\.[^'\\\n]*)*(?:'|\\?(?=\n|\Z)))
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.?))", re.DOTALL)
_SIMPLE_ESCAPES = {
    "a": b"\a",
    "b": b"\b",
    "f": b"\f",
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "v": b"\v",
    "\\": b"\\",
    "?": b"?",
    "'": b"'",
    '"': b'"',
}


@attrs.frozen
class Token:
    kind: str
    text: str
    offset: int
    """In characters, from the start of the text."""


class Positions:
    """Line and column of any offset."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def of(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


def scan(text: str) -> Iterator[Token]:
    """Every token of `text`, then one END. White space and comments are left out. Never fails: a string without its
    closing quote is a STRING token as far as its line goes, and stray characters are MARKs."""
    offset = 0
    while True:
        skipped = _SKIPPED.match(text, offset)
        assert skipped is not None, "the pattern matches the empty text"
        offset = skipped.end()
        found = _TOKEN.match(text, offset)
        if found is None:
            yield Token(END, "", offset)
            return
        assert found.lastgroup is not None
        yield Token(found.lastgroup, found[0], offset)
        offset = found.end()


def unquote(literal: str) -> bytes:
    """What a string literal says, escapes resolved. Raises ValueError telling what is wrong with it."""
    quote = literal[0]
    # A literal ends properly when its last quote is there and not escaped.
    closed = re.fullmatch(rf"{quote}(?:[^\\\n]|\\.)*{quote}", literal, re.DOTALL)
    if len(literal) < 2 or closed is None:
        raise ValueError(f"the string has no closing {quote}")
    parts: list[bytes] = []
    body = literal[1:-1]
    at = 0
    high: int | None = None
    for escape in _ESCAPE.finditer(body):
        between = body[at : escape.start()]
        if high is not None and (between or not (escape[3] and 0xDC00 <= int(escape[3], 16) < 0xE000)):
            break
        parts.append(between.encode())
        at = escape.end()
        octal, hexadecimal, short, long, simple = escape.groups()
        if octal or hexadecimal:
            value = int(octal, 8) if octal else int(hexadecimal, 16)
            if value > 255:
                raise ValueError(f"the escape '{escape[0]}' is larger than a byte")
            parts.append(bytes([value]))
        elif short or long:
            code = int(short or long, 16)
            if high is not None:
                code = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)
                high = None
            if 0xD800 <= code < 0xDC00 and short:
                high = code
                continue
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise ValueError(f"the escape '{escape[0]}' is not a Unicode character")
            parts.append(chr(code).encode())
        elif simple in _SIMPLE_ESCAPES:
            parts.append(_SIMPLE_ESCAPES[simple])
        else:
            raise ValueError(f"unknown escape '{escape[0]}' in a string")
    if high is not None:
        raise ValueError(f"the escape '\\u{high:04x}' is half of a surrogate pair")
    parts.append(body[at:].encode())
    return b"".join(parts)
