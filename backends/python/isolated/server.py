"""What a model's process sees of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....schema.tensor import Tensor


class Server(Protocol):
    """For any thread."""

    def say(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> None:
        """Returns once it is on its way. Raises OSError when the server is gone."""
        ...

    def say_soon(self, kind: str, fields: tuple[Any, ...] = ()) -> None:
        """Also from within garbage collection: never waits for others who say something, who say it then."""
        ...

    def ask(self, kind: str, fields: tuple[Any, ...] = (), tensors: Sequence[Tensor] = ()) -> Any:
        """Waits for the answer."""
        ...

    def listen(self) -> None:
        """What comes is heard from now on also while the main thread waits for something else."""
        ...
