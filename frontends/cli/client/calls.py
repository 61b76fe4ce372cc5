"""What can be asked of a running server, over whichever protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ....schema.tensor import Tensor


class CallFailed(Exception):
    """The server said no, or could not be reached; the text says which and why."""


class BadCall(Exception):
    """What was typed cannot be sent; the text says what was expected."""


@attrs.frozen
class Signature:
    """Inputs and outputs of a model: name, datatype and shape, with -1 for any size."""

    inputs: Sequence[tuple[str, str, list[int]]]
    outputs: Sequence[tuple[str, str, list[int]]]
    decoupled: bool
    """Whether a request has any number of answers."""


@attrs.frozen(kw_only=True)
class Ask:
    """One inference."""

    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    """Only these; empty for all."""
    id: str = ""
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    """Of types bool, int, float and str."""


class Calls(Protocol):
    """A connection to one server. Blocking; every method raises CallFailed."""

    def signature(self, model: str, version: str) -> Signature: ...

    def infer(self, model: str, version: str, ask: Ask) -> Sequence[Tensor]:
        """One request, one answer."""

    def stream(self, model: str, version: str, ask: Ask) -> Iterator[Sequence[Tensor]]:
        """One request to a decoupled model; the answers as they come."""

    def index(self) -> list[dict[str, Any]]:
        """Name, version, state and reason of everything in the repository."""

    def load(self, model: str, config: str | None) -> None:
        """With a configuration in JSON in the place of the model's own."""

    def unload(self, model: str, *, dependents: bool) -> None:
        """`dependents`: with the models of an ensemble."""

    def metadata(self, model: str, version: str) -> dict[str, Any]: ...

    def configuration(self, model: str, version: str) -> dict[str, Any]: ...

    def statistics(self, model: str, version: str) -> list[dict[str, Any]]: ...

    def problems(self, model: str, *, live: bool) -> list[str]:
        """Why the model, or the server for an empty name, is not ready, or not even `live`; empty if it is."""

    def close(self) -> None: ...
