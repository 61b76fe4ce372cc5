"""What is compared of two answers: everything but durations, places and foreign lines of tracebacks."""

from __future__ import annotations

import json
import re
from typing import Any

# Durations and clock times differ from run to run; their counts do not.
CLOCKED = {"ns", "last_inference"}
# Lines of a traceback that are not the user's: the interpreter's own, and installed packages'.
FOREIGN_FRAMES = re.compile(r"\n  (?:<frozen |\S*/site-packages/)[^\n]*")


def settled(answer: Any, repository: str) -> Any:
    """`answer` without what two runs of one server would not share, ready to be recorded or compared."""
    if isinstance(answer, dict):
        return {key: settled(value, repository) for key, value in answer.items() if key not in CLOCKED}
    if isinstance(answer, list):
        return [settled(item, repository) for item in answer]
    if isinstance(answer, str):
        return FOREIGN_FRAMES.sub("", answer.replace(repository, "<repository>"))
    return answer


def canonical(answer: Any) -> str:
    """One text per value: the order of members does not count, 1 and 1.0 differ, NaN equals itself."""
    return json.dumps(answer, sort_keys=True, indent=1, ensure_ascii=True)
