"""JSON as protobuf's own reader takes it, which is more than JSON: single quotes, names without quotes, a comma behind
the last member, `8.` for a number, any character in a string, `\\q` for `q`, and members that are given again.

Nothing is lost on the way: objects keep every member in order, numbers stay as they were written.
"""

from __future__ import annotations

import re
from typing import Any, Final


class JsonObject(list[tuple[str, Any]]):
    """The members of one object: name and value, in order, repeated ones too."""

    __slots__ = ()


class JsonNumber(str):
    """A number, as written: only the field knows what it is to become."""

    __slots__ = ()


def parse_json(text: str) -> Any:
    """JsonObject, list, str, JsonNumber, bool or None. Depth costs no stack. Raises ValueError that says where."""
    return _Parser(text).whole()


_SPACE: Final = re.compile(r"[ \t\n\r\v\f]*")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?(?![\w.+-])", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
_STRINGS: Final = {quote: re.compile(rf"{quote}((?:[^{quote}\\]++|\\.)*+){quote}", re.DOTALL) for quote in ('"', "'")}
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS: Final = {"true": True, "false": False, "null": None}


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Any:
        found = value = self._value()
        containers: list[Any] = []
        name = ""
        while True:
            if containers:
                containers[-1].append((name, value) if isinstance(containers[-1], JsonObject) else value)
            if isinstance(value, list):
                containers.append(value)
                is_open = not self._takes(_closer(value))
                if not is_open:
                    containers.pop()
            else:
                is_open = False
            while containers and not is_open:
                closer = _closer(containers[-1])
                comma = self._takes(",")
                if self._takes(closer):
                    containers.pop()
                elif comma:
                    is_open = True
                else:
                    raise self._unexpected(f"',' or '{closer}'")
            if not containers:
                break
            if isinstance(containers[-1], JsonObject):
                name = self._name()
            value = self._value()
        self._skip()
        if self._at < len(self._text):
            raise self._unexpected("the end")
        return found

    def _value(self) -> Any:
        self._skip()
        text, at = self._text, self._at
        first = text[at : at + 1]
        if first in ("{", "["):
            self._at += 1
            return JsonObject() if first == "{" else []
        if first in _STRINGS:
            return self._string()
        if number := _NUMBER.match(text, at):
            self._at = number.end()
            return JsonNumber(number[0])
        word = _WORD.match(text, at)
        if word is None or word[0] not in _WORDS:
            raise self._unexpected("a value")
        self._at = word.end()
        return _WORDS[word[0]]

    def _name(self) -> str:
        """A member's name and the colon behind it."""
        self._skip()
        if self._text[self._at : self._at + 1] in _STRINGS:
            name = self._string()
        else:
            word = _WORD.match(self._text, self._at)
            if word is None or word[0] in _WORDS:
                raise self._unexpected("a member's name")
            name = word[0]
            self._at = word.end()
        if not self._takes(":"):
            raise self._unexpected("':'")
        return name

    def _string(self) -> str:
        quoted = _STRINGS[self._text[self._at]].match(self._text, self._at)
        if quoted is None:
            raise ValueError(f"character {self._at}: a string does not end")
        self._at = quoted.end()
        if "\\" not in quoted[1]:
            return quoted[1]
        read = _ESCAPE.sub(_unescaped, quoted[1])
        try:
            # Halves of a pair become one character.
            return read.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise ValueError(f"character {quoted.start()}: a string has half of a surrogate pair") from None

    def _skip(self) -> None:
        space = _SPACE.match(self._text, self._at)
        assert space is not None, "no space is space enough"
        self._at = space.end()

    def _takes(self, mark: str) -> bool:
        self._skip()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += 1
        return True

    def _unexpected(self, expected: str) -> ValueError:
        self._skip()
        found = self._text[self._at : self._at + 16]
        return ValueError(f"character {self._at}: expected {expected}, found {repr(found) if found else 'the end'}")


def _closer(container: list[Any]) -> str:
    return "}" if isinstance(container, JsonObject) else "]"


def _unescaped(escape: re.Match[str]) -> str:
    body = escape[1]
    if len(body) > 1:
        return chr(int(body[1:], 16))
    if body == "u":
        raise ValueError("a string has \\u without four hexadecimal digits")
    return _ESCAPED.get(body, body)
