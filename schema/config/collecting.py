"""Several faults of one configuration told at once: who mends one should not have to load again to hear of the next."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ConfigRefused(InvalidArgument):
    """What `refuse_all` raises; its message has them in a row."""

    texts: tuple[str, ...] = ()
    """Each fault by itself."""


TOLD_MAX = 32
"""A configuration may have a fault for each of its million tensors."""


@contextmanager
def collected(found: list[str]) -> Iterator[None]:
    """Adds what the block finds wrong to `found`; what comes after the block is looked at all the same."""
    try:
        yield
    except InvalidArgument as fault:
        found.extend(getattr(fault, "texts", ()) or [fault.message])


def refuse_all(found: Iterable[str], prefix: str = "") -> None:
    """Raises InvalidArgument with all of them, each once, after `prefix`. A lone one reads as it would by itself."""
    texts = list(dict.fromkeys(found))
    if not texts:
        return
    more = f"; and {len(texts) - TOLD_MAX} more" if len(texts) > TOLD_MAX else ""
    refusal = ConfigRefused(prefix + "; ".join(texts[:TOLD_MAX]) + more)
    refusal.texts = (refusal.message,) if prefix else tuple(texts)
    raise refusal
