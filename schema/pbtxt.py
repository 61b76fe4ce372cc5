"""config.pbtxt: protobuf's text format to a message, with every complaint about the text told at once.

The format is what the reference parser (the one in C++) accepts, so that a file good for one server is good for the
other. The schema bounds the depth: a message opens only where its parent has such a field, and what an unknown field
holds is skipped by counting brackets.
"""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import betterproto2

from .complaint import Complaint, ConfigFault
from .message_type import FieldType, enum_names, fields_of
from .pbtxt_scanner import END, NAME, NUMBER, STRING, Positions, Token, scan, unquote
from .scalar import FLOATS, INTEGER_RANGES, to_float
from .wire.generated.inference import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Complaint", "ConfigFault", "parse_config", "parse_message"]

SIZE_MAX = 4 << 20
"""Characters of one file."""
COMPLAINTS_MAX = 50
"""More are not looked for: the text is hardly a configuration then."""
_SHOWN_MAX = 40
"""Characters of a token that a complaint quotes."""

_MessageT = TypeVar("_MessageT", bound=betterproto2.Message)

_CLOSERS = {"{": "}", "<": ">", "[": "]"}
_TRUE = re.compile(r"true|True|t|0*1|0[xX]0*1")
_FALSE = re.compile(r"false|False|f|0+|0[xX]0+")
_DECIMAL = re.compile(r"-?\s*(?:0|[1-9][0-9]*)")
_OCTAL = re.compile(r"-?\s*0[0-7]+")
_HEXADECIMAL = re.compile(r"-?\s*0[xX][0-9A-Fa-f]+")
_FLOAT = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?")
_SPECIAL_FLOAT = re.compile(r"inf|infinity|nan", re.IGNORECASE)


def parse_config(text: str | bytes, *, source: str = "config.pbtxt") -> ModelConfig:
    """The configuration that `text` writes. Raises ConfigFault with all that is wrong in it, named after `source`."""
    return parse_message(ModelConfig, text, source=source)


def parse_message(message: type[_MessageT], text: str | bytes, *, source: str) -> _MessageT:
    """The same for any generated message. Fields left out have their defaults."""
    if len(text) > SIZE_MAX:
        raise ConfigFault(source, [Complaint(1, 1, f"the text has {len(text)} characters, the limit is {SIZE_MAX}")])
    if isinstance(text, bytes):
        encoded = text
        try:
            text = encoded.decode()
        except UnicodeDecodeError as error:
            before = encoded[: error.start].decode()
            line, column = Positions(before).of(len(before))
            raise ConfigFault(source, [Complaint(line, column, "the text is not UTF-8")]) from None
    parser = _Parser(text.removeprefix("\ufeff"))
    values = parser.parse(message)
    if parser.complaints:
        raise ConfigFault(source, sorted(parser.complaints, key=lambda item: (item.line, item.column)))
    return message(**values)


class _BadValue(Exception):
    """The complaint is recorded; the value is to be skipped."""


class _Hopeless(Exception):
    """There are as many complaints as anybody reads."""


class _Parser:
    """Recursive descent over the tokens. After a complaint it goes on behind the value that it is about."""

    def __init__(self, text: str) -> None:
        self.complaints: list[Complaint] = []
        self._positions = Positions(text)
        self._tokens = list(scan(text))
        self._at = 0
        self._open: list[str] = []
        """The closers that enclosing messages and lists wait for."""

    def parse(self, message: type[betterproto2.Message]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        with suppress(_Hopeless):
            self._fields(message.__name__, fields_of(message), values, None)
        return values

    # What stands where.

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _advance(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != END:
            self._at += 1
        return token

    def _try(self, mark: str) -> bool:
        if self._token.text == mark:
            self._at += 1
            return True
        return False

    def _complain(self, token: Token, message: str) -> None:
        self.complaints.append(Complaint(*self._positions.of(token.offset), message))
        if len(self.complaints) == COMPLAINTS_MAX:
            raise _Hopeless

    def _refuse(self, expected: str) -> NoReturn:
        self._complain(self._token, f"expected {expected}, found {_shown(self._token)}")
        raise _BadValue

    # Messages and their fields.

    def _fields(
        self, owner: str, fields: Mapping[str, FieldType], values: dict[str, Any], opener: Token | None
    ) -> None:
        """Fields up to the closer of `opener`, which it takes, or to the end of the text."""
        closer = _CLOSERS[opener.text] if opener else ""
        while True:
            token = self._token
            if token.kind == END:
                if opener:
                    line, column = self._positions.of(opener.offset)
                    self._complain(
                        token, f"expected '{closer}' for the '{opener.text}' at {line}:{column}, found {_shown(token)}"
                    )
                return
            if opener and self._try(closer):
                return
            if token.text in self._open:
                self._complain(token, f"expected '{closer}', found {_shown(token)}")
                return
            if token.kind != NAME:
                self._complain(token, f"expected a field of {owner}, found {_shown(token)}")
                self._advance()
                if token.text in _CLOSERS:
                    self._skip_brackets(_CLOSERS[token.text])
                self._skip_value()
                continue
            self._advance()
            try:
                self._field(owner, fields, values, token)
            except _BadValue:
                self._skip_value()
            if not self._try(","):
                self._try(";")

    def _field(self, owner: str, fields: Mapping[str, FieldType], values: dict[str, Any], name: Token) -> None:
        field = fields.get(name.text)
        if field is None:
            self._complain(name, f"{owner} has no field {_shown(name)}{_nearest(name.text, fields)}")
            raise _BadValue
        if field.oneof is not None:
            for other in fields.values():
                if other.oneof == field.oneof and other is not field and other.attribute in values:
                    self._complain(
                        name, f"'{field.name}' excludes '{other.name}', which is set already: {owner} takes one"
                    )
        nested = field.kind in ("message", "map")
        if not self._try(":") and not (nested and self._token.text in ("{", "<", "[")):
            self._refuse(f"{'a colon or a brace' if nested else 'a colon'} after '{field.name}'")
        if not (field.repeated or field.kind == "map"):
            previous = values.get(field.attribute)
            value = self._value(field)
            if previous is not None and (field.has_presence or previous):
                self._complain(name, f"'{field.name}' is given twice in this {owner}")
            values[field.attribute] = value
            return
        store = values.setdefault(field.attribute, {} if field.kind == "map" else [])
        if self._token.text == "[":
            self._list(field, store)
        else:
            self._element(field, store)

    def _list(self, field: FieldType, store: Any) -> None:
        opener = self._advance()
        if self._try("]"):
            return
        self._open.append("]")
        try:
            while True:
                try:
                    self._element(field, store)
                except _BadValue:
                    self._skip_value(in_list=True)
                if self._try("]"):
                    return
                if not self._try(","):
                    line, column = self._positions.of(opener.offset)
                    expected = f"',' or ']' in the list that began at {line}:{column}"
                    self._complain(self._token, f"expected {expected}, found {_shown(self._token)}")
                    # Take a semicolon, or nothing, for the comma, unless the list seems to be over.
                    if not self._try(";") and (self._begins_field() or self._token.text in ("}", ">", "")):
                        raise _BadValue
        finally:
            self._open.pop()

    def _element(self, field: FieldType, store: Any) -> None:
        if field.entry is None:
            store.append(self._value(field))
            return
        values: dict[str, Any] = {}
        self._message(f"an entry of '{field.name}'", field.entry, values)
        key, value = field.entry["key"], field.entry["value"]
        store[values.get("key", _default(key))] = values.get("value", _default(value))

    def _message(self, owner: str, fields: Mapping[str, FieldType], values: dict[str, Any]) -> None:
        opener = self._token
        if opener.text not in ("{", "<"):
            self._refuse(f"'{{' to open {owner}")
        self._advance()
        self._open.append(_CLOSERS[opener.text])
        try:
            self._fields(owner, fields, values, opener)
        finally:
            self._open.pop()

    # Values.

    def _value(self, field: FieldType) -> Any:
        if field.message is not None:
            values: dict[str, Any] = {}
            self._message(field.message.__name__, fields_of(field.message), values)
            return field.message(**values)
        if field.kind == "string":
            return self._string(field)
        token = self._token
        if field.kind == "bool":
            value: Any = _TRUE.fullmatch(token.text) is not None
            if not value and not _FALSE.fullmatch(token.text):
                self._refuse(f"true or false for '{field.name}'")
        elif field.enum is not None:
            value = self._enum(field, field.enum)
        elif field.kind in FLOATS:
            return self._float(field)
        else:
            value = self._integer(field)
        self._advance()
        return value

    def _string(self, field: FieldType) -> str:
        first = self._token
        if first.kind != STRING:
            self._refuse(f"a string in quotes for '{field.name}'")
        parts: list[bytes] = []
        while self._token.kind == STRING:
            token = self._advance()
            try:
                parts.append(unquote(token.text))
            except ValueError as error:
                self._complain(token, f"{error}, in '{field.name}'")
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            self._complain(first, f"the string for '{field.name}' is not UTF-8")
            return ""

    def _enum(self, field: FieldType, enum: type[betterproto2.Enum]) -> betterproto2.Enum:
        token = self._token
        if token.kind == NUMBER:
            return enum(self._integer(field))
        names = enum_names(enum)
        number = names.get(token.text)
        if number is None:
            some = ", ".join(names)
            if token.kind != NAME:
                self._refuse(f"one of {some} for '{field.name}'")
            near = _nearest(token.text, names)
            self._complain(token, f"expected one of {some} for '{field.name}', found {_shown(token)}{near}")
            number = 0
        return enum(number)

    def _integer(self, field: FieldType) -> int:
        text = self._token.text
        if _DECIMAL.fullmatch(text):
            base = 10
        elif _HEXADECIMAL.fullmatch(text):
            base = 16
        elif _OCTAL.fullmatch(text):
            base = 8
        else:
            self._refuse(f"an integer for '{field.name}'")
        low, high = INTEGER_RANGES[field.kind]
        digits = re.sub(r"\s", "", text)
        # No 64-bit number needs more, and converting an endless one takes endless time.
        value = int(digits, base) if len(digits) < 30 or not digits.strip("-0") else high + 1
        if not low <= value <= high or (low == 0 and digits[0] == "-"):
            self._complain(
                self._token,
                f"'{field.name}' is an {field.kind}, expected {low} to {high}, found {_shown(self._token)}",
            )
            return 0
        return value

    def _float(self, field: FieldType) -> float:
        token = self._token
        text = re.sub(r"\s", "", token.text)
        if text == "-" and self._tokens[self._at + 1].kind == NAME:
            self._advance()
            text += self._token.text
        if _SPECIAL_FLOAT.fullmatch(text.removeprefix("-")):
            value = float(text)
        elif _FLOAT.fullmatch(text):
            value = float(text.rstrip("fF"))
        else:
            self._refuse(f"a number for '{field.name}'")
        self._advance()
        return to_float(field.kind, value)

    # Going on after a complaint.

    def _skip_value(self, *, in_list: bool = False) -> None:
        """Past what is left of a value: to a separator, to a closer of what is open, or to the next field."""
        while self._token.kind != END:
            token = self._token
            if token.text in ("}", ">", "]", ",", ";"):
                return
            if self._begins_field() and not in_list:
                return
            self._advance()
            if token.text in _CLOSERS:
                self._skip_brackets(_CLOSERS[token.text])
                if not in_list:
                    return

    def _begins_field(self) -> bool:
        if self._token.kind != NAME:
            return False
        return self._tokens[self._at + 1].text in (":", "{", "<", "[")

    def _skip_brackets(self, closer: str) -> None:
        """Past the closer of a bracket that is open, whatever is inside. Counts rather than calls: depth is free."""
        open_brackets = [closer]
        while open_brackets and self._token.kind != END:
            text = self._advance().text
            if text in _CLOSERS:
                open_brackets.append(_CLOSERS[text])
            elif text == open_brackets[-1]:
                open_brackets.pop()


def _default(field: FieldType) -> Any:
    if field.message is not None:
        return field.message()
    return "" if field.kind == "string" else 0


def _shown(token: Token) -> str:
    if token.kind == END:
        return "the end of the text"
    text = token.text if len(token.text) <= _SHOWN_MAX else token.text[:_SHOWN_MAX] + "..."
    return text if token.kind == STRING else f"'{text}'"


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name[:_SHOWN_MAX], known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
