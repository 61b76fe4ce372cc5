"""One record as one line of JSON, for collectors of logs: what the text form says, and each fact under a name.

| member | of |
|---|---|
| time, level, message, logger, file, line, pid | every line; time is UTC with microseconds |
| model, version | lines that concern a model |
| request_id, trace_id, caller | lines that concern one request |
| requests, requests_more | lines that concern several: the same of each, and how many are left out |
| exception | lines with a traceback |
| those of frontends/access_log.py | access logs |
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from ...engine.port.concerns import concern_of
from ...schema.text import encodable

if TYPE_CHECKING:
    import logging


def json_line(record: logging.LogRecord, message: str, exception: str = "") -> str:
    """Without its end."""
    facts: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": record.levelname,
        "message": message,
        **_concern(record),
        **getattr(record, "access", {}),
        "logger": record.name,
        "file": record.filename,
        "line": record.lineno,
        "pid": os.getpid(),
    }
    if exception:
        facts["exception"] = exception
    return orjson.dumps(_encodable(facts), default=str).decode()


def _concern(record: logging.LogRecord) -> dict[str, Any]:
    """What the record concerns, without what is not known."""
    concern = concern_of(record)
    if concern is None:
        return {}
    known: dict[str, Any] = {"model": concern.model, "version": concern.version}
    each = [_known(attrs.asdict(request)) for request in concern.requests]
    if len(each) == 1 and not concern.more:
        known |= each[0]
    elif each:
        known |= {"requests": each, "requests_more": concern.more}
    return _known(known)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {name: _encodable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_encodable(part) for part in value]
    return value
