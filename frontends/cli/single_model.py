"""A folder that is one model, or its files, in the place of a repository: what platforms make of a bucket's folder.

/mnt/models/iris/config.pbtxt     a repository: it is served as it is
/mnt/models/config.pbtxt, 1/...   a model:  TEMPORARY/NAME/ has links to all that is there
/mnt/models/model.onnx            a version's files: TEMPORARY/NAME/1/ has the links
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from ...schema.fault import Fault, InvalidArgument
from ...schema.pbtxt import parse_config

if TYPE_CHECKING:
    import contextlib

    from .settings import ServeSettings

log = logging.getLogger("despina.serve")

_SAVED_MODEL: Final = "saved_model.pb"


def model_name(text: str) -> str:
    """The name of a model, and so of a directory."""
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        raise ValueError(f"a model's name is expected, got '{text}'")
    return text


@attrs.frozen(kw_only=True)
class SingleModelSettings:
    name: str = ""
    """Of the model. Empty: repositories are repositories."""


def with_single_model(settings: ServeSettings, files: contextlib.ExitStack) -> ServeSettings:
    """`settings` with a repository of its own for the model, which goes with `files`. Raises InvalidArgument where
    there is more than one repository, or one that is elsewhere."""
    name = settings.single_model.name
    if not name:
        return settings
    locations = settings.engine.model_repository
    if len(locations) != 1 or "://" in (location := locations[0].removeprefix("file://")):
        raise InvalidArgument("--single-model needs one --model-repository, a directory of this machine")
    place = Path(location).absolute()
    if not place.is_dir() or _is_repository(place):
        return settings
    folder = Path(files.enter_context(tempfile.TemporaryDirectory(prefix="despina-single-")))
    made = _lay_out(place, name, folder)
    what = "a model" if made.is_model else "a version of a model"
    log.info("%s is %s, which is served as '%s'", place, what, made.name)
    return attrs.evolve(settings, engine=attrs.evolve(settings.engine, model_repository=(str(folder),)))


@attrs.frozen
class _Made:
    name: str
    is_model: bool


def _is_repository(place: Path) -> bool:
    """Whether its folders are models, and it is none itself."""
    if _is_model(place) or (place / _SAVED_MODEL).is_file():
        return False
    return any(_is_model(entry) for entry in place.iterdir() if entry.is_dir())


def _is_model(place: Path) -> bool:
    return (place / "config.pbtxt").is_file() or any(
        entry.name.isdigit() for entry in place.iterdir() if entry.is_dir()
    )


def _lay_out(place: Path, name: str, folder: Path) -> _Made:
    """Links in `folder`. A configuration that names its model has the last word, for it would not load otherwise."""
    if _is_model(place):
        name = _own_name(place / "config.pbtxt") or name
        _link_all(place, folder / name)
        return _Made(name, is_model=True)
    version = folder / name / "1"
    if (place / _SAVED_MODEL).is_file():
        version.mkdir(parents=True)
        (version / "model.savedmodel").symlink_to(place)
    else:
        _link_all(place, version)
        _give_default_name(version)
    return _Made(name, is_model=False)


def _link_all(place: Path, to: Path) -> None:
    to.mkdir(parents=True)
    for entry in place.iterdir():
        (to / entry.name).symlink_to(entry)


def _give_default_name(version: Path) -> None:
    """The only ONNX file is the model, however it is called: without a configuration nobody says so."""
    found = [entry for entry in version.iterdir() if entry.suffix == ".onnx"]
    if len(found) == 1 and found[0].name != "model.onnx":
        (version / "model.onnx").symlink_to(os.readlink(found[0]))


def _own_name(config: Path) -> str:
    """What a configuration calls its model; empty where it does not, or cannot be read: the load then says why."""
    try:
        return parse_config(config.read_bytes()).name
    except (OSError, ValueError, Fault):
        return ""
