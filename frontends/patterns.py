"""Regular expressions of options: written for RE2, run by Python's engine.

In RE2 a flag group such as `(?-i)` may stand anywhere and holds until its group ends; Python takes one at the very
beginning only and cannot switch anything off there. Everything else that RE2 has and Python lacks is refused.
"""

from __future__ import annotations

import re
import warnings
from typing import Final

_FLAG_GROUP: Final = re.compile(r"\(\?([imsU]+(?:-[imsU]+)?|-[imsU]+)\)")
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|\[:\w*:\]|[^\]\\])*\]", re.DOTALL)


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern for `search`, in any case unless it says otherwise. Raises ValueError for what Python cannot run, or
    would read in another way than RE2."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # `[[:alpha:]]` compiles, but to something else
            return re.compile(_with_scoped_flags(pattern), re.IGNORECASE)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None


def _with_scoped_flags(pattern: str) -> str:
    """`a(?-i)b|c` as `a(?-i:b)|(?-i:c)`: what a flag group holds for becomes a group of its own, in each branch."""
    written: list[str] = []
    open_flags: list[list[str]] = [[]]
    """Of each group that is open, outermost first: the flag groups in force."""
    at = 0
    while at < len(pattern):
        flags = _FLAG_GROUP.match(pattern, at)
        whole = flags or _CLASS.match(pattern, at)
        text = whole[0] if whole else pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        at += len(text)
        here = open_flags[-1]
        if flags:
            text = f"(?{flags[1]}:"
            here.append(text)
        elif text == "(":
            open_flags.append([])
        elif text == "|":
            text = f"{')' * len(here)}|{''.join(here)}"
        elif text == ")" and len(open_flags) > 1:
            text = ")" * len(open_flags.pop()) + text
        written.append(text)
    written.append(")" * len(open_flags[0]))
    return "".join(written)
