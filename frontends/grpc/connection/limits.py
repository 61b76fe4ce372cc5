"""A budget that refills with time: how often a peer may do what costs us more than it."""

from __future__ import annotations

from ..wire.constants import ErrorCode, Http2Error


class TokenBucket:
    """`burst` tokens at first, `per_s` more each second up to `burst`. Times are seconds on one clock."""

    __slots__ = ("_burst", "_per_s", "_tokens", "_updated")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = burst
        self._updated = now

    def take(self, now: float, what: str) -> None:
        """Spends one token. Raises Http2Error ENHANCE_YOUR_CALM when there is none."""
        if self._tokens < self._burst:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._per_s)
        self._updated = now
        self._tokens -= 1
        if self._tokens < 0:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, what)
