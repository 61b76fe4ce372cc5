"""Resources that instances need to execute, and how much of each the server has: what `--rate-limit` goes by."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Resource:
    """So much of one resource, taken while an instance executes."""

    name: str
    count: int
    is_global: bool = False
    """One supply for the whole server; else each device has its own."""


@attrs.frozen(kw_only=True)
class ResourceLimit:
    """How much of a resource there is, as the operator says. Raises ValueError for less than nothing."""

    name: str
    count: int = attrs.field(validator=attrs.validators.ge(0))
    device: int | None = None
    """None: on every device."""
