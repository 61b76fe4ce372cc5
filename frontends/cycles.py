"""How often the interpreter looks for cycles of objects: rarely, where it has nothing but a server to run."""

from __future__ import annotations

import gc
from typing import Final

OBJECTS: Final = 50_000
"""How many new ones make it look among them. Imports leave next to no cycles behind, and requests none, so looking
after every 700 is work for nothing."""


def look_rarely() -> None:
    gc.set_threshold(OBJECTS, 20, 50)


def set_aside() -> None:
    """For a server that has just loaded its models: what was made on the way there stays for good, so nobody looks at
    it again and again. What an earlier call has set aside is looked at once more: it may be of a server that has gone.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
