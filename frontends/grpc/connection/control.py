"""The frames that steer a connection: SETTINGS, PING, WINDOW_UPDATE, GOAWAY, PRIORITY."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ..wire.constants import (
    ACK,
    GOAWAY,
    PEER_FRAME_BYTES_MIN,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_FRAME_SIZE,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    ErrorCode,
    Http2Error,
    frame,
    rst_stream,
)

if TYPE_CHECKING:
    from .port import Framed

LEAVING: Final = b"leaving!"
"""Our PING when the server stops: its answer shows that the peer has read what was before it."""
_SETTINGS_MAX: Final = 64
"""Settings in one frame. The protocol knows six."""
_PING_INTERVAL_WITHOUT_CALLS_MS: Final = 7_200_000
"""How rarely a peer may ping without calls where that is not permitted; gRPC's C core has the same."""


class Control:
    """Acts on control frames of one connection."""

    __slots__ = ("_connection", "_pinged_at", "_sent_at_ping", "_strikes", "ping_sent_at")
    __deletable__ = ("_connection",)

    def __init__(self, connection: Framed) -> None:
        self._connection = connection
        self._pinged_at = 0.0
        self._sent_at_ping = -1
        self._strikes = 0
        self.ping_sent_at = 0.0
        """When our keepalive PING left that nothing has answered yet; 0 for none."""

    def let_go(self) -> None:
        """The connection is closed, and nothing will be received."""
        del self._connection

    def receive(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bool:
        """Acts on one frame. True for one that a peer should not send often. Raises Http2Error."""
        if kind == WINDOW_UPDATE:
            self._window_update(stream_id, payload)
            return False
        if kind in (SETTINGS, PING, GOAWAY) and stream_id:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "a frame of the connection on a stream")
        if kind == PING:
            self._ping(flags, payload)
            return False
        if kind == SETTINGS:
            return self._settings(flags, payload)
        if kind == PUSH_PROMISE:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        if kind == PRIORITY and len(payload) != 5:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of wrong size")
        return kind != GOAWAY  # a client that says GOAWAY only means that we must not open streams, which we never do

    def send_ping(self, now: float) -> None:
        self.ping_sent_at = now
        self._connection.outlet.put(frame(PING, 0, 0, b"despina!"))

    def _acknowledge(self, answer: bytes) -> None:
        outlet = self._connection.outlet
        outlet.acks += 1
        if outlet.acks > self._connection.settings.unflushed_acks_max:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "acknowledgements are not read")
        outlet.put(answer)

    def _ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "PING of wrong size")
        if flags & ACK:
            self.ping_sent_at = 0.0
            if payload == LEAVING:
                self._connection.stop()
            return
        self._acknowledge(frame(PING, ACK, 0, payload))
        self._judge_ping()

    def _judge_ping(self) -> None:
        """Pings while we send data are the peer measuring; others must be rare."""
        connection = self._connection
        settings = connection.settings
        # Acknowledgements of pings are 17 bytes; anything beyond them is data.
        sent = connection.outlet.sent_bytes + connection.outlet.queued_bytes
        quiet = sent - self._sent_at_ping <= 17
        since = connection.now - self._pinged_at
        self._pinged_at, self._sent_at_ping = connection.now, sent
        interval_ms = settings.ping_interval_without_data_ms_min
        if not connection.calls and not settings.keepalive_permit_without_calls:
            interval_ms = max(interval_ms, _PING_INTERVAL_WITHOUT_CALLS_MS)
        if not quiet or since * 1000 >= interval_ms:
            self._strikes = 0
            return
        self._strikes += 1
        if 0 < settings.ping_strikes_max < self._strikes:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")

    def _settings(self, flags: int, payload: bytes) -> bool:
        if flags & ACK:
            if payload:
                raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            return False
        if len(payload) % 6:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of wrong size")
        if len(payload) > 6 * _SETTINGS_MAX:
            raise Http2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        outlet = self._connection.outlet
        for key, value in struct.iter_unpack(">HI", payload):
            if key == SETTING_INITIAL_WINDOW_SIZE:
                if value > WINDOW_MAX:
                    raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "initial window too large")
                grown = value - outlet.peer_window_bytes
                outlet.peer_window_bytes = value
                for call in self._connection.calls.values():
                    call.window += grown
                    if call.window > WINDOW_MAX:
                        raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "window overflow")
                    outlet.reopen(call)
            elif key == SETTING_MAX_FRAME_SIZE:
                if not PEER_FRAME_BYTES_MIN <= value < 2**24:
                    raise Http2Error(ErrorCode.PROTOCOL_ERROR, "impossible frame size")
                outlet.peer_frame_bytes = value
        self._acknowledge(frame(SETTINGS, ACK, 0))
        return True

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of wrong size")
        increment = int.from_bytes(payload, "big") & WINDOW_MAX
        connection = self._connection
        if stream_id == 0:
            if increment == 0:
                raise Http2Error(ErrorCode.PROTOCOL_ERROR, "window increment 0")
            connection.outlet.window += increment
            if connection.outlet.window > WINDOW_MAX:
                raise Http2Error(ErrorCode.FLOW_CONTROL_ERROR, "window overflow")
            return
        if stream_id > connection.last_id and not connection.draining:
            raise Http2Error(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
        call = connection.calls.get(stream_id)
        if call is None:
            return
        call.window += increment
        if increment == 0 or call.window > WINDOW_MAX:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            connection.outlet.put(rst_stream(stream_id, code))
            call.abandon()
            return
        connection.outlet.reopen(call)
