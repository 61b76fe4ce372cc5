"""What time does to a connection: handshakes, stalled peers, keepalive, old age. Called for each, twice a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connection import State

if TYPE_CHECKING:
    from .connection import Connection

_DEADLINE_EXCEEDED, _CANCELLED = 4, 1


def sweep_connection(connection: Connection, now: float) -> None:
    connection.now = now
    settings = connection.settings
    if connection.state is not State.OPEN:
        if connection.state is State.LINGERING and now >= connection.linger_until:
            connection.close()
        return
    reader = connection.reader
    if connection.calls or connection.dirty or not reader.greeted or reader.part_since or not connection.outlet.is_idle:
        _sweep_work(connection, now)
        if not connection.is_open:
            return
    else:
        connection.stall_since = 0.0
    _keep_alive(connection, now)
    age_s = settings.connection_age_ms_max / 1000
    if age_s and now - connection.opened_at > age_s:
        connection.go_away()
        grace_s = settings.connection_age_grace_ms / 1000
        if grace_s and now - connection.opened_at > age_s + grace_s:
            connection.close()


def _sweep_work(connection: Connection, now: float) -> None:
    """Of a connection that does something, or should."""
    settings = connection.settings
    if not connection.reader.greeted and now - connection.opened_at > settings.handshake_timeout_s:
        connection.close()
        return
    if (
        connection.reader.part_since
        and now - max(connection.reader.part_since, _last_data(connection)) > settings.handshake_timeout_s
    ):
        connection.close()
        return
    if _is_write_stalled(connection, now):
        connection.abort()
        return
    if connection.dirty:  # somebody stumbled who should have sent this long ago
        connection.flush()
    _sweep_calls(connection, now)


def _last_data(connection: Connection) -> float:
    """A DATA frame that is taken piece by piece is as old as its newest piece; its call has its own rule."""
    return connection.received_at if connection.reader.is_mid_data else 0.0


def _is_write_stalled(connection: Connection, now: float) -> bool:
    """True when the peer took too little of what waited for it all through the last period: it does not read, or
    keeps its windows shut."""
    outlet = connection.outlet
    if outlet.is_idle and not any(call.unsent for call in connection.calls.values()):
        connection.stall_since = 0.0
        return False
    stall_s, bytes_min = connection.server.write_stall
    if not connection.stall_since:
        connection.stall_since, connection.stall_sent_bytes = now, outlet.sent_bytes
        return False
    if now - connection.stall_since < stall_s:
        return False
    if outlet.sent_bytes - connection.stall_sent_bytes < bytes_min:
        return True
    connection.stall_since, connection.stall_sent_bytes = now, outlet.sent_bytes
    return False


def _sweep_calls(connection: Connection, now: float) -> None:
    stall_s = connection.settings.read_stall_s
    for call in list(connection.calls.values()):
        if call.started and not call.is_mid_message:
            continue
        if call.deadline and now >= call.deadline:
            call.refuse(_DEADLINE_EXCEEDED, "Deadline Exceeded")
        elif now - call.received_at > stall_s and not call.ended and call.receive_window > 0:  # else we let it wait
            call.refuse(_CANCELLED, f"The request's bytes stopped coming for {stall_s:g} s")


def _keep_alive(connection: Connection, now: float) -> None:
    settings = connection.settings
    control = connection.control
    if control.ping_sent_at:
        if connection.received_at > control.ping_sent_at:
            control.ping_sent_at = 0.0
        elif now - control.ping_sent_at > settings.keepalive_timeout_ms / 1000:
            connection.close()
        return
    if now - connection.received_at < settings.keepalive_time_ms / 1000:
        return
    if connection.calls or settings.keepalive_permit_without_calls:
        control.send_ping(now)
        connection.flush()
