"""What has changed between two loads of a model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_newer(times_ns: Mapping[str, int], known_ns: Mapping[str, int]) -> bool:
    """True when something in the model's directory is newer than anything was. No times at all are older than any."""
    return max(times_ns.values(), default=0) > max(known_ns.values(), default=0)
