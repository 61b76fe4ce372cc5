"""Writes the four headers, valid in C and in C++."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from .api import HEADERS, Function, callbacks, functions, values

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ABOUT = {
    "tritonserver": "The inference server as a library: make a server, give it requests, get responses by callback.",
    "tritonbackend": "Backends: what a library libtriton_<name>.so implements, and what it may ask of the server.",
    "tritonrepoagent": "Repository agents: what looks at the files of a model, or brings others, before it is loaded.",
    "tritoncache": "Response caches: what keeps answers, and gives them back.",
}
_OPAQUE = re.compile(r"TRITON[A-Z]+_[A-Za-z]+(?=\*)")


def write_headers(folder: Path) -> None:
    """`folder`/triton/core/*.h"""
    place = folder / "triton" / "core"
    place.mkdir(parents=True, exist_ok=True)
    for header in HEADERS:
        (place / f"{header}.h").write_text(header_text(header), encoding="utf-8")


def header_text(header: str) -> str:
    prefix = header.upper()
    lines = [
        f"// {ABOUT[header]}",
        "// Written by despina from its table of the C API: do not edit.",
        "#pragma once",
        "",
        *(
            ["#include <stdbool.h>", "#include <stddef.h>", "#include <stdint.h>"]
            if header == HEADERS[0]
            else [f'#include "triton/core/{HEADERS[0]}.h"']
        ),
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        *_linkage(prefix),
        "",
        *_types(header),
        *_numbers(header),
    ]
    lines.extend(_function_type(callback) for callback in callbacks() if callback.header == header)
    for function in functions():
        if function.header == header:
            word = "DECLSPEC" if function.by == "server" else "ISPEC"
            lines.append(f"{prefix}_{word} {function.declaration()};")
    lines += ["", "#ifdef __cplusplus", "}", "#endif", ""]
    return "\n".join(lines)


def _linkage(prefix: str) -> list[str]:
    """What the words before each declaration mean: the server's own functions, and those of plug-ins."""
    return [
        f"#ifndef {prefix}_DECLSPEC",
        "#if defined(__GNUC__)",
        f'#define {prefix}_DECLSPEC __attribute__((__visibility__("default")))',
        "#else",
        f"#define {prefix}_DECLSPEC",
        "#endif",
        "#endif",
        f"#define {prefix}_ISPEC {prefix}_DECLSPEC",
    ]


def _types(header: str) -> list[str]:
    """The opaque types that this header is the first to name."""
    mine = _opaque([*callbacks(), *functions()], header)
    before = HEADERS[: HEADERS.index(header)][:1]
    known = {name for earlier in before for name in _opaque([*callbacks(), *functions()], earlier)}
    known |= {value.type for value in values()}
    names = [name for name in mine if name not in known]
    return [*(f"typedef struct {name} {name};" for name in names), ""]


def _opaque(of: Iterable[Function], header: str) -> list[str]:
    found: dict[str, None] = {}
    for function in of:
        if function.header == header:
            for text in (function.returns, *(parameter.type for parameter in function.parameters)):
                found.update(dict.fromkeys(_OPAQUE.findall(text)))
    return list(found)


def _numbers(header: str) -> list[str]:
    lines: list[str] = []
    for kind, group in groupby((value for value in values() if value.header == header), key=lambda value: value.type):
        if kind == "define":
            lines += [f"#define {value.name} {value.value}" for value in group]
        else:
            members = ",\n".join(f"  {value.name} = {value.value}" for value in group)
            lines.append(f"typedef enum {kind.lower()}_enum {{\n{members}\n}} {kind};")
        lines.append("")
    return lines


def _function_type(callback: Function) -> str:
    listed = ", ".join(f"{parameter.type} {parameter.name}" for parameter in callback.parameters)
    return f"typedef {callback.returns} (*{callback.name})({listed});\n"
