"""What a library asks Python: that a configuration that it sets is brought into order, that a line is logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from ...native.dispatching import answer
from ...native.messages import answer_messages
from ...schema.config_json import config_to_json
from ...schema.model_config import accept_completion, config_from_json

if TYPE_CHECKING:
    from ...native.extension_port import Extension


def answer_library(native: Extension) -> None:
    """Lets the library ask, and log. Idempotent."""
    answer_messages(native)
    answer(native, "native_config", _normalised)


def _normalised(_: int, arguments: bytes) -> bytes:
    """The configuration to go on with, after the backend has completed the one before."""
    before, completed = orjson.loads(arguments)
    return config_to_json(accept_completion(config_from_json(before), config_from_json(completed)))
