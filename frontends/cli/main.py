"""The entry point. `serve` is gone to at once, so that its start pays for no other verb; verbs.py knows the rest."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from ..cycles import look_rarely
from .console import discard_rest

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPLETION_VARIABLE = "_DESPINA_COMPLETE"
"""Set by a shell that wants to know what may follow."""


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
    if arguments and arguments[0] == "serve" and COMPLETION_VARIABLE not in os.environ:
        look_rarely()
        from .serve import serve

        return serve(arguments[1:])
    from .verbs import run_verb

    return run_verb(arguments)
