"""Headers, or metadata, that reach the model as request parameters: those whose name matches a pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..schema.fault import InvalidArgument
from .patterns import compiled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..schema.inference import InferenceRequest

_RESERVED: Final = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
)


class HeaderForwarder:
    """Adds headers to requests. `pattern` may match any part of a name, in any case unless it says `(?-i)`."""

    def __init__(self, pattern: str) -> None:
        """Raises ValueError for what is no regular expression."""
        self._pattern = compiled(pattern)

    def forward(self, fields: Iterable[tuple[str, str]], request: InferenceRequest) -> None:
        """Puts each matching header into the request's parameters, its name as received. Of repeated headers the first
        counts, and it counts more than a parameter of the same name in the request.

        Raises InvalidArgument for a match that has the name of a parameter of the protocol.
        """
        matches = self._pattern.search
        found: dict[str, str] = {}
        for name, value in fields:
            if matches(name) is not None:
                if name in _RESERVED or name.startswith("triton_"):
                    raise InvalidArgument(f"Header '{name}' is reserved for Triton usage and cannot be forwarded.")
                found.setdefault(name, value)
        if found:
            request.parameters = {**(request.parameters or {}), **found}


def open_forwarder(pattern: str) -> HeaderForwarder | None:
    """The forwarder for an option's text; None for an empty one, which forwards nothing."""
    return HeaderForwarder(pattern) if pattern else None
