"""The entry point: picks the verb. What a verb needs is imported when it is asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = ("serve", "infer")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs `despina` with these arguments (the process's own by default) and exits."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The same with the exit code as its value."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", ())
    if verb == "serve":
        from .serve import serve

        return serve(rest)
    if verb == "infer":
        from .infer import infer

        return infer(rest)
    if verb == "--version":
        from ... import __version__

        print(f"despina {__version__}")
        return 0
    from .help import MAIN_HELP

    if verb in ("--help", "-h", "help"):
        print(MAIN_HELP)
        return 0
    print(f"{MAIN_HELP}\nUnknown verb: {verb} (known: {', '.join(VERBS)})", file=sys.stderr)
    return 1
