"""What is remembered of requests whose heads say the same. Referred to weakly, so this module is not compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....engine.port.buffers import BufferPool


class Notes:
    """What handling a request has found out from its head alone, but for lengths. Requests that differ in nothing else
    share their notes."""

    __slots__ = ("__weakref__", "buffers", "coding", "encoding", "handler", "match", "model")

    def __init__(self) -> None:
        self.handler: Any = None
        """The handler that its method and path lead to, once it may pass; with `match`."""
        self.match: Any = None
        self.encoding: bytes | None = None
        """For inference: how the body is compressed, empty where it is not; None for not looked at yet."""
        self.coding: bytes | None = None
        """With it: how the client wants its reply compressed."""
        self.model: Any = None
        """For inference: the model, for as long as the engine's generation lasts."""
        self.buffers: BufferPool | None = None
        """With it: where large bodies are best received; None where that is all the same."""

    def let_go(self) -> None:
        """The generation is over."""
        self.model = self.buffers = None
