"""The logging extension: what the server logs, shown and changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from ....schema.fault import InvalidArgument, Unavailable
from ....schema.json_text import as_boolean, as_object, as_string, as_unsigned, read_first
from ....schema.text import encodable
from ...log_settings import NAMES, SWITCHES
from ..request.request import JSON, HttpRequest

if TYPE_CHECKING:
    from ...log_settings import LogSettings
    from .routes import Match


class LogHandlers:
    """`/v2/logging`."""

    def __init__(self, logs: LogSettings) -> None:
        self._logs = logs

    def show(self, request: HttpRequest, match: Match) -> None:
        """The protocol's members, and behind them the levels of models that have their own: ours."""
        models = {encodable(model): level for model, level in self._logs.models}
        shown = {**self._logs.shown(), **({"log_models": models} if models else {})}
        request.reply(200, JSON, [orjson.dumps(shown)])

    def change(self, request: HttpRequest, match: Match) -> None:
        """Members that are null stay as they are; unknown ones are ignored. Answers with what holds now."""
        wanted = as_object(read_first(request.body))
        models = wanted.get("log_models")
        if models is not None:
            changes = as_object(models).items()
            self._logs.put_models({model: None if level is None else as_string(level) for model, level in changes})
        for name in NAMES:
            value = wanted.get(name)
            if value is None:
                continue
            if name in SWITCHES:
                self._logs.put(name, as_boolean(value))
            elif name == "log_verbose_level":
                self._logs.put(name, as_unsigned(value))
            elif name == "log_format":
                self._put_format(as_string(value))
            else:
                self._logs.put(name, "")
        self.show(request, match)

    def _put_format(self, text: str) -> None:
        """The protocol answers an unknown format with 503 here, and calls the setting by its option's name."""
        try:
            self._logs.put("log_format", text)
        except InvalidArgument:
            raise Unavailable(f"invalid argument for --log_format, got: {text}") from None
