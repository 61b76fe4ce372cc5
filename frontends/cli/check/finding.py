"""One thing that is wrong, with its place and what mends it."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import attrs

_PIP: Final = re.compile(r"pip install '[^']+'")


@attrs.frozen(kw_only=True)
class Finding:
    model: str
    """Empty where it is the repository's."""
    file: str
    """Or directory."""
    line: int = 0
    """From 1; 0 where no line is to blame."""
    column: int = 0
    message: str
    fix: str = ""
    """What to type or to change; empty where nothing is known."""
    severity: Literal["fault", "warning"] = "fault"
    """A model with a warning is served."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        word = "warning: " if self.severity == "warning" else ""
        fix = f"\n    fix: {self.fix}" if self.fix else ""
        return f"{place}: {word}{self.message}{fix}"

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)


def fix_in(message: str) -> str:
    """What a message says itself of how to mend it: the extra to install."""
    found = _PIP.search(message)
    return found[0] if found else ""
