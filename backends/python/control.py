"""`pb_utils.load_model`, `unload_model` and `is_model_ready`: a model that changes which models there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.fault import Fault
from ...schema.version import parse_version
from .arguments import text
from .error import TritonModelException
from .nested import asker

if TYPE_CHECKING:
    from .nested import Asker


def load_model(model_name: str, config: str = "", files: dict[str, bytes] | None = None) -> None:
    """Loads or reloads a model and waits until it serves. `files` by `file:<path>`, then with a `config` in JSON.

    Raises TritonModelException with what is wrong; TypeError for arguments of other kinds.
    """
    name, settings = text("load_model", "model_name", model_name), text("load_model", "config", config)
    contents = {}
    for path, content in (files or {}).items():
        if not isinstance(content, bytes):
            raise TypeError(f"load_model(): expected files to hold bytes, found {type(content)} for '{path}'")
        contents[text("load_model", "a path in files", path).removeprefix("file:")] = content
    one = asker()
    try:
        engine, by = one.waiting(), one.model_name
        engine.load(name, config=settings or None, files=contents or None, by=by, is_opening=not one.executes)
    except Fault as fault:
        raise _failed(one, "load model", fault) from None


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Takes a model out of service; what is in flight finishes. An unknown one is no error. Raises as `load_model`."""
    name = text("unload_model", "model_name", model_name)
    one = asker()
    try:
        one.waiting().unload(name, unload_dependents=bool(unload_dependents))
    except Fault as fault:
        raise _failed(one, "unload model", fault) from None


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether that version, or any, serves. Raises as `load_model`, for a version that is no number."""
    name, version = (
        text("is_model_ready", "model_name", model_name),
        text("is_model_ready", "model_version", model_version),
    )
    one = asker()
    try:
        return one.waiting().is_model_ready(name, parse_version(version))
    except Fault as fault:
        raise _failed(one, "check model readiness", fault) from None


def _failed(one: Asker, what: str, fault: Fault) -> TritonModelException:
    return TritonModelException(
        f"Failed to {what}: Failed to process the request for model '{one.name}', message: {fault.message}"
    )
