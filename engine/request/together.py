"""Several requests for one model that come at one time, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...schema.inference import InferenceRequest

_Accepted = TypeVar("_Accepted")
_OnDone = TypeVar("_OnDone")


def submit_each(
    submit: Callable[[InferenceRequest, _OnDone], _Accepted],
    requests: Iterable[InferenceRequest],
    on_done: _OnDone,
    refused: Callable[[InferenceRequest, Exception], None],
) -> list[_Accepted]:
    """What `Served.submit_all` promises, for what has no cheaper way than its own `submit`."""
    accepted = []
    for request in requests:
        try:
            accepted.append(submit(request, on_done))
        except Exception as problem:
            refused(request, problem)
    return accepted
