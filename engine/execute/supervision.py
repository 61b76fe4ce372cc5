"""What happens to an instance whose executor is gone: the decision. Pure. Strategies are values (port/settings.py).

Restarting is for what worked once. An instance that does not open the first time fails its model's load instead, for a
loop would only hide that. Back-off has jitter, so that instances which died together do not open together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..port.settings import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..port.settings import Strategy


def wait_after(strategy: Strategy, deaths_s: Sequence[float], now_s: float, chance: float) -> float | None:
    """Seconds until the next opening, None for never. `deaths_s` are the times of all deaths, the last one just now;
    `chance` is a random number in [0, 1)."""
    if isinstance(strategy, Stop):
        return None
    recent = sum(now_s - death_s <= strategy.window_s for death_s in deaths_s)
    if recent > strategy.limit:
        return None
    wait_s = min(strategy.backoff_max_s, strategy.backoff_min_s * 2.0 ** min(recent - 1, 64))
    return wait_s * (1 + strategy.jitter * (2 * chance - 1))
