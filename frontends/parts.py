"""Buffers that leave one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque

    from ..schema.tensor import Buffer


def forget(parts: deque[Buffer], sent: int) -> None:
    """So many bytes of them are with the kernel: what is left stays."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts.popleft())
    if sent:
        parts[0] = memoryview(parts[0])[sent:]
