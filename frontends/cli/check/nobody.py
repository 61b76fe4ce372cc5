"""The engine that a model sees while it is checked: metrics of its own it may have, but there is nobody to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from ....engine.observe.custom_metrics import CustomMetrics
from ....schema.fault import Unsupported

if TYPE_CHECKING:
    from ....engine.port.nested import NestedCall

NOBODY: Final = "no other model is there while a model is checked"


class Nobody:
    """See NestedCaller."""

    def __init__(self) -> None:
        self.metrics = CustomMetrics()

    def may_wait(self) -> bool:
        return True

    def call(self, *_: Any, **__: Any) -> NestedCall:
        _refuse()

    def is_model_ready(self, *_: Any, **__: Any) -> bool:
        _refuse()

    def load(self, *_: Any, **__: Any) -> None:
        _refuse()

    def unload(self, *_: Any, **__: Any) -> None:
        _refuse()

    def attend(self, *_: Any, **__: Any) -> None:
        _refuse()


def _refuse() -> NoReturn:
    raise Unsupported(NOBODY)
