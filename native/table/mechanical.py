"""Writes the C++ that follows from the table alone: setters of options, and stubs of what is not built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .api import Function, functions

if TYPE_CHECKING:
    from pathlib import Path

_OPTION_PREFIXES = ("TRITONSERVER_ServerOptionsSet", "TRITONSERVER_ServerOptionsAdd")
OPTION_PREFIX = "TRITONSERVER_ServerOptions"


def write_mechanical(folder: Path) -> None:
    (folder / "options.inc").write_text(options_text(), encoding="utf-8")
    (folder / "stubs.cc").write_text(stubs_text(), encoding="utf-8")


def option_setters() -> list[Function]:
    return [function for function in functions() if function.name.startswith(_OPTION_PREFIXES)]


def options_text() -> str:
    """Each setter notes its name and its arguments; what they mean is said in Python."""
    return "\n".join(_setter(function) for function in option_setters())


def _setter(function: Function) -> str:
    options, *given = function.parameters
    name = function.name.removeprefix(OPTION_PREFIX)
    noted = " ".join(f"note.add({parameter.name});" for parameter in given)
    return (
        f"{function.declaration()}\n{{\n"
        f'  return guarded([&] {{ OptionNote note(need({options.name}, "options"), "{name}"); {noted} }});\n}}\n'
    )


def stubs_text() -> str:
    """A weak definition of each of the library's functions that returns an error: whatever is built takes its place."""
    lines = ['#include "core/base.h"', "", 'extern "C" {']
    lines += [
        f"__attribute__((weak)) {function.declaration()}\n{{\n"
        f'  return despina::make_error(TRITONSERVER_ERROR_UNSUPPORTED, "{function.name} is not supported");\n}}'
        for function in functions()
        if function.by == "server" and function.returns == "TRITONSERVER_Error*"
    ]
    lines += ["}", ""]
    return "\n".join(lines)
