"""What can be set on the gRPC door. Every limit has a default that is safe with strangers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tls import TlsSettings

_KIB = 1024
_MIB = 1024 * 1024


@attrs.frozen(kw_only=True)
class GrpcSettings:
    receive_bytes_max: int = 2**31 - 1
    """Largest message taken, before and after decompression. Larger ones get RESOURCE_EXHAUSTED."""
    send_bytes_max: int = 2**31 - 1
    """Largest reply, before compression. A larger one is answered with INVALID_ARGUMENT."""
    response_compression_level: Literal["none", "low", "medium", "high"] = "none"
    """How hard replies of inference are compressed for clients that accept it."""
    forward_pattern: str = ""
    """Metadata whose key this regular expression finds becomes parameters of the request. Empty: none."""
    restricted: Mapping[str, tuple[bytes, bytes]] = attrs.field(factory=dict)
    """Category of RPCs (`inference`, `model-repository`, ...) to the metadata key and the value that it asks for."""
    tls: TlsSettings | None = None
    """None for plain connections."""

    keepalive_time_ms: int = 7_200_000
    """A connection silent for so long is sent a PING."""
    keepalive_timeout_ms: int = 20_000
    """It is closed when nothing came back for so long."""
    keepalive_permit_without_calls: bool = False
    ping_interval_without_data_ms_min: int = 300_000
    """A peer that pings more often than this, while nothing is sent to it, earns a strike."""
    ping_strikes_max: int = 2
    """One more strike ends the connection with `too_many_pings`. 0 for no limit."""
    connection_age_ms_max: int = 0
    """After so long a connection is asked to leave; 0 for never."""
    connection_age_grace_ms: int = 0
    """How long its calls may go on then; 0 for as long as they need."""

    concurrent_streams_max: int = 1000
    header_list_bytes_max: int = 64 * _KIB
    """Bounds a header block on the wire and the header list that it decodes to."""
    stream_window_bytes: int = 16 * _MIB
    """How much a peer may send on one stream ahead of what was consumed."""
    frame_bytes_max: int = 4 * _MIB
    recycled_bytes_max: int = 256 * _MIB
    """Buffers of large messages kept for later ones, all of the door's own together."""
    recycled_idle: float = 10.0
    """Of these, those that nobody needed for so many seconds are freed."""
    stream_requests_max: int = 256
    """Requests of one ModelStreamInfer call in flight; further ones wait unread."""
    backlog_bytes_max: int = 4 * _MIB
    """A connection with more unsent bytes is not read from."""

    handshake_timeout_s: float = 10.0
    """A new connection must finish its preface, and any started frame must be complete, within this time."""
    read_stall_s: float = 30.0
    """A request whose bytes stop coming for so long is refused."""
    write_stall_s: float = 30.0
    """A peer must take `write_stall_bytes_min` of what waits for it in each such period."""
    write_stall_bytes_min: int = 64 * _KIB
    stop_grace: float = 1.0
    """How many seconds a stopping server waits for the rest of requests that are sent in part, and for peers who read
    nothing of what waits for them."""
    linger_s: float = 0.5
    """How long a closed connection's last bytes may take to be read by the peer."""

    resets_per_s: float = 100.0
    """How many calls a peer may start and cancel per second, with bursts of `resets_burst`."""
    resets_burst: int = 300
    idle_frames_per_s: float = 500.0
    """The same for frames that carry nothing: empty DATA, PRIORITY, SETTINGS, unknown kinds."""
    idle_frames_burst: int = 2000
    unflushed_acks_max: int = 1000
    """PING and SETTINGS acknowledgements waiting for the peer to read them."""
