"""Stopped while models load: what the end waits for. A framework that opens a model cannot be interrupted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from ...engine.repository.registry import State

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from .stopping import Stopping

log = logging.getLogger("despina.serve")

EVERY_S: Final = 5.0
"""Said again so often."""
AT_FIRST_S: Final = 0.1
"""What ends within it is not worth a word."""


async def say_what_loads(engine: Engine, stopping: Stopping) -> None:
    """From the first signal on, until cancelled."""
    await stopping.asked.wait()
    await trio.sleep(AT_FIRST_S)
    while True:
        names = ", ".join(still_loading(engine)) or "models"
        left_s = max(0.0, stopping.deadline - trio.current_time())
        log.warning(
            "Waiting for what is being loaded and cannot be interrupted: %s. It is given up in %.0f s; another "
            "SIGINT (^C) ends at once.",
            names,
            left_s,
        )
        await trio.sleep(EVERY_S)


def still_loading(engine: Engine) -> list[str]:
    """Models, with their versions, in the order of their names."""
    return [
        f"{name} version {number}"
        for name, entry in sorted(engine.registry.models.items())
        for number, version in sorted(entry.versions.items())
        if version.state in (State.LOADING, State.UNKNOWN)
    ]
