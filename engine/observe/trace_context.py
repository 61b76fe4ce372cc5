"""The W3C trace context that requests bring along: `traceparent` and `tracestate`."""

from __future__ import annotations

import re

from ..port.sink import TraceParent

STATE_BYTES_MAX = 512
"""A longer `tracestate` is dropped whole, as the recommendation allows."""

_PARENT = re.compile(r"\s*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?\s*\Z")


def parse_traceparent(text: str, state: str = "") -> TraceParent | None:
    """The span that `traceparent` names; None for what is not valid, which callers then ignore."""
    found = _PARENT.match(text)
    if found is None:
        return None
    version, trace, span, rest = found.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == "ff" or (version == "00" and rest) or not trace_id or not span_id:
        return None
    return TraceParent(trace_id, span_id, state if len(state) <= STATE_BYTES_MAX else "")
