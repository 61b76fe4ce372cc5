"""The tables of the C API as objects, in the order of the files, which is that of the headers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

HEADERS = ("tritonserver", "tritonbackend", "tritonrepoagent", "tritoncache")
"""Each includes those before it."""


class Parameter(NamedTuple):
    type: str
    name: str


class Function(NamedTuple):
    """One function. `by` is who has it: the server's library, or a plug-in that the server loads."""

    header: str
    by: str
    name: str
    returns: str
    parameters: tuple[Parameter, ...]

    def declaration(self) -> str:
        listed = ", ".join(f"{parameter.type} {parameter.name}" for parameter in self.parameters)
        return f"{self.returns} {self.name}({listed or 'void'})"


class Value(NamedTuple):
    """A number with a name: of an enumeration, or a `define`."""

    header: str
    type: str
    name: str
    value: int


def _rows(name: str) -> list[list[str]]:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]


def _parameters(text: str) -> tuple[Parameter, ...]:
    found = []
    for part in filter(None, text.split(", ")):
        kind, _, name = part.rpartition(" ")
        found.append(Parameter(kind, name))
    return tuple(found)


@cache
def functions() -> tuple[Function, ...]:
    rows = _rows("functions.tsv")
    return tuple(Function(header, by, name, returns, _parameters(text)) for header, by, name, returns, text in rows)


@cache
def callbacks() -> tuple[Function, ...]:
    """Types of functions that programs hand over."""
    rows = _rows("callbacks.tsv")
    return tuple(Function(header, "program", name, returns, _parameters(text)) for header, name, returns, text in rows)


@cache
def values() -> tuple[Value, ...]:
    return tuple(Value(header, kind, name, int(number)) for header, kind, name, number in _rows("values.tsv"))


def exported() -> frozenset[str]:
    """What the server's library has, and nothing else."""
    return frozenset(function.name for function in functions() if function.by == "server")
