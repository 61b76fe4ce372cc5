"""The entry point: picks the verb. What a verb needs is imported when it is asked for."""

from __future__ import annotations

import errno
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from .console import discard_rest

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = ("serve", "infer")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs `despina` with these arguments (the process's own by default) and exits."""
    code = 128 + signal.SIGPIPE
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # its reader, `head` perhaps, has seen enough
        discard_rest(sys.stdout)
    except OSError as problem:
        if problem.errno != errno.ENOSPC:
            raise
        discard_rest(sys.stdout)
        print(f"error: standard output: {problem.strerror}", file=sys.stderr)
        code = 1
    sys.exit(code)


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
