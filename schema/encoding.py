"""Whether outputs can be sent at all: found out where they are made, not where they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fault import ModelFailure

if TYPE_CHECKING:
    from .fault import Fault
    from .tensor import Tensor


def encoding_fault(outputs: list[Tensor]) -> Fault | None:
    """What is wrong with the first output that has no wire form, or None. On the executing thread: strings get theirs
    here, for an array of objects may hold anything, and who asks for it later is not to blame."""
    for tensor in outputs:
        if tensor.wire is None and tensor.array.dtype.kind not in "biufc":  # type: ignore[union-attr]  # one of the two
            try:
                tensor.memory()
            except Exception as error:  # whatever a backend has put into the array raises
                return ModelFailure(f"output '{tensor.name}' has no wire form: {type(error).__name__}: {error}")
    return None
