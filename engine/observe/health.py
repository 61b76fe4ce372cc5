"""Whether the engine can do its work, and what keeps it from it."""

from __future__ import annotations

from enum import Enum

import attrs


class ServerState(Enum):
    INITIALIZING = "initializing"
    READY = "ready"
    EXITING = "exiting"
    FAILED = "failed to initialize"


@attrs.frozen
class HealthReport:
    """Computed when asked, from the states of the supervision tree; nothing is cached."""

    ready: bool
    problems: tuple[str, ...]
    """One line for each part that is down, also where the settings let the server count as ready all the same."""
