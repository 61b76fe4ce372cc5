"""Which file of the protocol defines a symbol, and that file as the protobuf compiler describes it.

The descriptors are made with the messages (generate.py) and kept as bytes: whoever asks for them parses them. Here
they are only read for the names that they define, by a walk over the few fields of descriptor.proto that hold names.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from .varint import read_tag, read_varint, skip_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PATH: Final = Path(__file__).resolve().parent / "generated" / "descriptors.binpb"

_NAME: Final = 1
"""The field of every kind of descriptor that holds its name."""
_SET_FILE: Final = 1
_FILE_PACKAGE, _FILE_DEPENDENCY, _FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 2, 3, 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_ONEOF = 2, 3, 4, 8
_ENUM_VALUE: Final = 2
_SERVICE_METHOD: Final = 2


@attrs.frozen
class DescribedFile:
    """One .proto file."""

    name: str
    content: bytes
    """A serialised FileDescriptorProto."""
    dependencies: tuple[str, ...]
    """The files that it imports."""
    symbols: tuple[str, ...]
    """Full names of everything in it: messages, fields, oneofs, enums and their values, services, methods."""
    messages: tuple[str, ...]
    """Full names of the messages among them."""


@attrs.frozen
class Descriptors:
    """All files, by name and by what they define."""

    files: Mapping[str, DescribedFile]
    by_symbol: Mapping[str, DescribedFile]
    messages: frozenset[str]

    def with_dependencies(self, file: DescribedFile) -> list[DescribedFile]:
        """`file` and all that it needs, itself first, each once."""
        found = {file.name: file}
        waiting = [file]
        while waiting:
            for name in waiting.pop().dependencies:
                if name not in found:
                    found[name] = self.files[name]
                    waiting.append(found[name])
        return list(found.values())


@cache
def protocol_descriptors() -> Descriptors:
    """Those of everything in `proto/`. The first call reads a file that is part of the package."""
    return read_descriptors(_PATH.read_bytes())


def read_descriptors(data: bytes) -> Descriptors:
    """What a FileDescriptorSet holds. Raises Malformed or IndexError for bytes that no compiler wrote."""
    files = [_read_file(content) for number, content in _parts(data) if number == _SET_FILE]
    return Descriptors(
        {file.name: file for file in files},
        {symbol: file for file in files for symbol in file.symbols},
        frozenset(message for file in files for message in file.messages),
    )


def _read_file(content: bytes) -> DescribedFile:
    name, package = _name_of(content), ""
    dependencies, symbols, messages = [], [], []
    for number, part in _parts(content):
        if number == _FILE_PACKAGE:
            package = part.decode()
        elif number == _FILE_DEPENDENCY:
            dependencies.append(part.decode())
    scope = f"{package}." if package else ""
    for number, part in _parts(content):
        if number == _FILE_MESSAGE:
            inner_symbols, inner_messages = _read_message(part, scope)
            symbols += inner_symbols
            messages += inner_messages
        elif number == _FILE_ENUM:
            symbols += _read_enum(part, scope)
        elif number == _FILE_SERVICE:
            service = scope + _name_of(part)
            methods = [f"{service}.{_name_of(method)}" for field, method in _parts(part) if field == _SERVICE_METHOD]
            symbols += [service, *methods]
    return DescribedFile(name, content, tuple(dependencies), tuple(symbols), tuple(messages))


def _read_message(content: bytes, scope: str) -> tuple[list[str], list[str]]:
    """Full names of all symbols in a message, itself first, and of the messages among them."""
    name = scope + _name_of(content)
    symbols, messages = [name], [name]
    for number, part in _parts(content):
        if number in (_MESSAGE_FIELD, _MESSAGE_ONEOF):
            symbols.append(f"{name}.{_name_of(part)}")
        elif number == _MESSAGE_ENUM:
            symbols += _read_enum(part, f"{name}.")
        elif number == _MESSAGE_NESTED:
            inner_symbols, inner_messages = _read_message(part, f"{name}.")
            symbols += inner_symbols
            messages += inner_messages
    return symbols, messages


def _read_enum(content: bytes, scope: str) -> list[str]:
    """The enum and its values, which are named as its siblings, not as its members."""
    values = [scope + _name_of(part) for number, part in _parts(content) if number == _ENUM_VALUE]
    return [scope + _name_of(content), *values]


def _name_of(content: bytes) -> str:
    return next((part.decode() for number, part in _parts(content) if number == _NAME), "")


def _parts(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields that hold text, bytes or messages, with their numbers; others are stepped over."""
    at = 0
    while at < len(content):
        tag, at = read_tag(content, at)
        if tag & 7 == 2:
            size, at = read_varint(content, at)
            yield tag >> 3, content[at : at + size]
            at += size
        else:
            at = skip_field(content, at, tag, 0)
