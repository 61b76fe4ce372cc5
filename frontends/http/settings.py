"""What an operator may set about the HTTP door. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tls import TlsSettings

HttpServerKind = Literal["native", "hypercorn"]


@attrs.frozen
class HttpSettings:
    """The limits of one HTTP server. Every queue, buffer and wait of the door has its bound here."""

    server: HttpServerKind = "native"
    """Which program speaks HTTP/1.1: our listener, or hypercorn for everything."""

    head_bytes_max: int = 32 * 1024
    """Request line and headers; also the trailers of a chunked body. Beyond it: 431."""
    header_count_max: int = 128
    """Header lines of one request. Beyond it: 431."""
    body_bytes_max: int = 2**31 - 1
    """The protocol keeps Content-Length in 32 bits. Beyond it: 400."""
    chunk_count_max: int = 65536
    """Non-empty chunks of one chunked body. Beyond it: 400."""
    json_bytes_max: int = 64 * 1024 * 1024
    """`--http-max-input-size`: the JSON part of an inference request, and each tensor written in JSON."""
    pipelined_bytes_max: int = 128 * 1024
    """Received ahead of the request in flight, or answered and not taken by the client, before the connection is no
    longer read."""
    recycled_bytes_max: int = 256 * 1024 * 1024
    """Large body buffers kept for later requests, all of the door's own together."""
    recycled_idle: float = 10.0
    """Of these, those that nobody needed for so long are freed; and when no large body has come for so long, what the
    process had freed goes back to the system."""

    connection_count_max: int = 4096
    """Beyond it the connection that has been idle for longest makes room, or the slowest request; where all are at work
    new connections may only ask for health."""
    probe_count_max: int = 8
    """Such connections. Beyond them new ones wait in the listening socket's backlog."""
    head_timeout: float = 10.0
    """From a request's first byte to the end of its headers."""
    body_stall_timeout: float = 30.0
    """Between two arrivals of body bytes."""
    body_rate_min: int = 240
    """Bytes of a body per second, on average, once it has taken `body_stall_timeout`, which does not count. Below it:
    408. 0 for none."""
    idle_timeout: float = 75.0
    """A connection without a byte of a request, new or kept alive."""
    write_stall_timeout: float = 30.0
    """A reply of which the client takes nothing."""
    linger_timeout: float = 2.0
    """After a refusal: how long what the client still sends is thrown away, so that it sees the reply."""
    stop_grace: float = 1.0
    """Once the server stops: for the rest of a request of which a part has arrived. Then 503."""
    keepalive_probe_after: int = 60
    """TCP keepalive: finds hosts that vanished without a word."""

    health_bodies: bool = False
    """`/v2/health/live` and `/v2/health/ready` are answered with `{"live": true}` and `{"ready": true, ...}`, as in the
    Open Inference Protocol; the reference server leaves the bodies empty."""
    forward_pattern: str = ""
    """Headers whose name this regular expression finds become parameters of the request. Empty: none."""
    tls: TlsSettings | None = None
    """None for plain connections."""
    restricted: Mapping[str, tuple[bytes, bytes]] = attrs.field(factory=dict)
    """API category (`inference`, `model-repository`, ...) to the header and the value that it asks for."""
