"""Writes a new model's directory: whole, or not at all."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ....engine.port.backend import Draft, ModelContext
from ....engine.port.foreign import as_fault
from ....engine.port.settings import EngineSettings
from ....engine.port.store import ModelSource
from ....engine.repository import configuration
from ....engine.repository.devices import find_gpus
from ....engine.repository.discovery import Backends
from ....schema.fault import Fault
from ....schema.model_config import parse_config
from ....schema.wire.generated.inference import ModelConfig
from . import python_model
from .config_text import config_text
from .source import PYTHON, Kind, copy, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = re.compile(r"[^/\0.][^/\0]*")


def write_model(repository: Path, name: str, source: str) -> Sequence[Path]:
    """Writes `repository`/`name` from `source`, a path or `python`, and gives the files. Raises click.ClickException,
    and has written nothing."""
    if not _NAME.fullmatch(name):
        raise click.ClickException(f"'{name}' cannot be a model's name: it is that of a directory")
    target = repository / name
    if target.exists():
        raise click.ClickException(f"{target} is there already; another name, or remove it first")
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".despina-new-", dir=repository) as temporary:
            made = Path(temporary, name)
            (made / "1").mkdir(parents=True)
            if source == PYTHON:
                _write_python(made, name)
            else:
                _write_from_file(made, name, Path(source))
            files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
            made.rename(target)
    except OSError as error:
        raise click.ClickException(f"{error.filename or target}: {error.strerror}") from None
    except Fault as fault:
        raise click.ClickException(fault.message) from None
    return [target / path for path in files]


def _write_python(made: Path, name: str) -> None:
    (made / "1" / "model.py").write_text(python_model.MODEL)
    (made / "test_model.py").write_text(python_model.TEST)
    config = parse_config(python_model.CONFIG)
    config.name, config.backend, config.default_model_filename = name, "python", "model.py"
    heading = ("A model in Python: 1/model.py executes it, test_model.py tries it.",)
    (made / "config.pbtxt").write_text(config_text(config, heading))


def _write_from_file(made: Path, name: str, source: Path) -> None:
    kind = kind_of(source)
    copy(source, kind, made / "1")
    draft = _draft(made, name, kind)
    heading = [f"Made from {source.name}, by what the file says of itself."]
    (made / "config.pbtxt").write_text(config_text(draft.config, heading, draft.doubts))


def _draft(made: Path, name: str, kind: Kind) -> Draft:
    """What the framework makes of the file. Raises Fault."""
    settings = EngineSettings(model_repository=(str(made.parent),))
    backend = Backends().get(kind.backend)
    config = ModelConfig(name=name, backend=kind.backend, platform=kind.platform, default_model_filename=kind.filename)
    doubts: tuple[str, ...] = ()
    drafting: Any = getattr(backend, "draft", None)
    if drafting is not None:
        drafted: Draft = drafting(made / "1" / kind.filename)
        doubts = drafted.doubts
        config.max_batch_size = drafted.config.max_batch_size
        config.input, config.output = drafted.config.input, drafted.config.output
    config = configuration.settle(config, name, ModelSource(made), settings)
    context = ModelContext(
        name=name,
        version=1,
        model_path=made,
        version_path=made / "1",
        config=config,
        auto_complete=True,
        backend_config=configuration.backend_settings(kind.backend, settings),
    )
    try:
        model = backend.open_model(context)
    except (Exception, SystemExit) as error:
        raise as_fault(error) from error
    try:
        return Draft(configuration.complete(config, model.config, backend, find_gpus(), settings), doubts)
    finally:
        model.close()
