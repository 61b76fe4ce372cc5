"""`mypyc_attr`: what the compiler is told of classes that others may derive their own from, which are not compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_: object) -> Callable[[type], type]:
        """Nothing: where sources run, mypyc need not be there."""
        return lambda kind: kind


__all__ = ["mypyc_attr"]
