"""What is wrong with one model: as much as can be told from its files, and, opened, from its framework."""

from __future__ import annotations

import difflib
import logging
import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

import attrs

from ....engine.execute.warmup import Warmup
from ....engine.port.backend import ModelContext
from ....engine.port.foreign import as_fault
from ....engine.port.store import ModelSource
from ....engine.repository import configuration
from ....engine.repository.discovery import ANY, GROUP, Backends
from ....engine.repository.model_directory import chosen_versions, config_file, labels, version_directories
from ....engine.schedule.states import States
from ....schema.complaint import ConfigFault
from ....schema.config.collecting import ConfigRefused
from ....schema.fault import Fault
from .finding import Finding, fix_in
from .instance import try_instance
from .nobody import NOBODY, Nobody
from .place import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ....engine.port.settings import EngineSettings
    from ....schema.wire.generated.inference import ModelConfig

_RAISED: Final = re.compile(r"^  (\S.*)\((\d+)\): ", re.MULTILINE)
_UNTOLD: Final = ("despina.engine.repository.discovery",)
"""Loggers whose lines say again what a finding says."""


@attrs.define
class Checked:
    """One model, with what was found."""

    name: str
    config: ModelConfig | None = None
    """Settled, and completed where its backend could; None where it cannot be read."""
    text: str = ""
    """Of its config.pbtxt."""
    file: str = ""
    """Its config.pbtxt."""
    findings: list[Finding] = attrs.field(factory=list)

    @property
    def is_sound(self) -> bool:
        return not any(finding.severity == "fault" for finding in self.findings)

    def blame(self, messages: Iterable[str], fix: str = "") -> None:
        """Faults of what the configuration means. Without a `fix`, what the messages say of one themselves."""
        for message in messages:
            line, column = place_of(message, self.text, self.name) if self.text else (0, 0)
            self.findings.append(
                Finding(
                    model=self.name,
                    file=self.file,
                    line=line,
                    column=column,
                    message=message,
                    fix=fix or fix_in(message),
                )
            )


class ModelCheck:
    """Checks one model after the other."""

    def __init__(self, settings: EngineSettings, gpus: list[int], *, opening: bool) -> None:
        """With `opening`, frameworks open each version, and one instance of it, as they would on a server."""
        self._settings = settings
        self._gpus = gpus
        self._opening = opening
        self._backends = Backends(config=settings.backend_config, directory=settings.backend_directory)
        self._installed = {entry.name for entry in entry_points(group=GROUP)} - {ANY}

    def check(self, name: str, path: Path) -> Checked:
        """Never raises for what a model can be. `path` is the model's directory."""
        checked = Checked(name, file=str(path))
        heard = _Heard(checked, str(path))
        logger = logging.getLogger("despina")
        logger.addHandler(heard)
        try:
            self._check(checked, path)
        finally:
            logger.removeHandler(heard)
        return checked

    def _check(self, checked: Checked, path: Path) -> None:
        written = self._read(checked, path)
        versions = version_directories(path)
        if written is None:
            if not versions:
                self._no_versions(checked, path)
            return
        try:
            config = configuration.settle(written, checked.name, ModelSource(path), self._settings)
        except Fault as fault:
            checked.blame(_texts(fault))
            if not versions:
                self._no_versions(checked, path)
            return
        checked.config = config
        try:
            chosen = chosen_versions(config.name, versions, config.version_policy)
        except Fault as fault:
            if versions:
                checked.blame(_texts(fault))
            else:
                self._no_versions(checked, path)
            return
        for version, version_path in chosen.items():
            self._check_version(checked, config, path, version, version_path)

    def _read(self, checked: Checked, path: Path) -> ModelConfig | None:
        file = config_file(path, self._settings.model_config_name)
        if file.is_file():
            checked.file = str(file)
            checked.text = file.read_text(errors="replace")
        else:
            near = difflib.get_close_matches("config.pbtxt", [entry.name for entry in path.iterdir()], n=1, cutoff=0.8)
            if near:
                found = path / near[0]
                message = f"'{near[0]}' is not read; the configuration's file is config.pbtxt"
                self._warn(checked, str(found), message, f"mv {found} {path / 'config.pbtxt'}")
        try:
            return configuration.read(path, None, self._settings)
        except ConfigFault as fault:
            checked.findings += [
                Finding(
                    model=checked.name,
                    file=checked.file,
                    line=complaint.line,
                    column=complaint.column,
                    message=complaint.message,
                )
                for complaint in fault.complaints
            ]
        except Fault as fault:
            checked.blame([fault.message])
        return None

    def _no_versions(self, checked: Checked, path: Path) -> None:
        loose = sorted(entry.name for entry in path.iterdir() if entry.is_file() and entry.name.startswith("model."))
        move = f"mkdir {path}/1 && mv {path / loose[0]} {path}/1/" if loose else ""
        fix = move or f"make a directory named by the version's number, {path}/1, and put the model's file there"
        if path.name.startswith((".", "__")):
            fix = f"move {path} out of the repository: a server takes each directory of it for a model"
        message = "there is no version: no directory whose name is a number"
        checked.findings.append(Finding(model=checked.name, file=str(path), message=message, fix=fix))

    def _check_version(
        self, checked: Checked, config: ModelConfig, path: Path, version: int, version_path: Path
    ) -> None:
        before = len(checked.findings)
        try:
            configuration.check_before_opening(config, version_path, path)
        except Fault as fault:
            checked.blame(_texts(fault))
        if config.ensemble_scheduling is not None:
            self._try(checked, lambda: configuration.complete_ensemble(config))
            self._try(checked, lambda: labels(config.name, path, _label_files(config)))
            return
        self._check_backend(checked, config, path, version_path)
        self._check_file(checked, config, version_path)
        if config.backend == "python":
            self._compile(checked, version_path / (config.default_model_filename or "model.py"))
        if config.model_repository_agents is not None:
            self._warn(checked, checked.file, "it has repository agents, which are not asked: it was not opened", "")
        elif len(checked.findings) == before and self._opening:
            self._open(checked, config, path, version, version_path)
            return
        self._try(checked, lambda: labels(config.name, path, _label_files(config)))

    def _check_backend(self, checked: Checked, config: ModelConfig, path: Path, version_path: Path) -> None:
        name = config.backend
        if name in self._installed:
            try:
                summary = self._backends.get(name).config_summary()
            except Fault as fault:
                checked.blame([fault.message])
                return
            if fix_in(summary):
                checked.blame([f"backend '{name}': {summary}"])
            return
        library = f"libtriton_{name}.so"
        folders = [version_path, path]
        if self._settings.backend_directory:
            own = path.__class__(self._settings.backend_directory, name)
            folders.append(own)
            if (own / "model.py").is_file():
                return
        if any((folder / library).is_file() for folder in folders):
            return
        near = difflib.get_close_matches(name, self._installed, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        where = f"--backend-directory=FOLDER, with FOLDER/{name}/{library} or FOLDER/{name}/model.py"
        fix = f'backend: "{near[0]}"' if near else where
        checked.blame([f"there is no backend '{name}'{hint}"], fix)

    def _check_file(self, checked: Checked, config: ModelConfig, version_path: Path) -> None:
        name = config.default_model_filename
        if not name or config.backend not in self._installed or config.cc_model_filenames:
            return
        if (version_path / name).exists():
            return
        suffix = name.rpartition(".")[2]
        others = sorted(entry.name for entry in version_path.iterdir() if entry.name.endswith(f".{suffix}"))
        fix = ""
        if others:
            fix = f'mv {version_path / others[0]} {version_path / name}, or default_model_filename: "{others[0]}"'
        message = f"there is no '{name}' in it, the file of a model of backend '{config.backend}'"
        checked.findings.append(Finding(model=checked.name, file=str(version_path), message=message, fix=fix))

    def _compile(self, checked: Checked, file: Path) -> None:
        try:
            compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                return  # said already
            line, column = getattr(error, "lineno", 0) or 0, getattr(error, "offset", 0) or 0
            message = getattr(error, "msg", None) or str(error)
            checked.findings.append(
                Finding(model=checked.name, file=str(file), line=line, column=column, message=message)
            )

    def _open(self, checked: Checked, config: ModelConfig, path: Path, version: int, version_path: Path) -> None:
        settings = self._settings
        try:
            backend = self._backends.get(config.backend)
            opened = backend.open_model(
                ModelContext(
                    name=config.name,
                    version=version,
                    model_path=path,
                    version_path=version_path,
                    config=config,
                    auto_complete=not settings.disable_auto_complete_config,
                    backend_config=configuration.backend_settings(config.backend, settings),
                    nested=Nobody(),
                )
            )
        except (Exception, SystemExit) as error:  # a user model's; it ends nothing here
            _blame_code(checked, config, path, version_path, error)
            return
        try:
            completed = configuration.complete(config, opened.config, backend, self._gpus, settings)
            checked.config = opened.config = completed
            for instance in configuration.instances(completed, settings)[:1]:
                try_instance(opened, instance)
        except (Exception, SystemExit) as error:
            _blame_code(checked, config, path, version_path, error)
        finally:
            opened.close()
        completed = checked.config or config
        self._try(checked, lambda: labels(config.name, path, _label_files(completed)))
        self._try(checked, lambda: Warmup(completed, path, States(completed, path)))

    def _try(self, checked: Checked, step: Callable[[], object]) -> None:
        try:
            step()
        except Fault as fault:
            checked.blame(_texts(fault))

    def _warn(self, checked: Checked, file: str, message: str, fix: str) -> None:
        checked.findings.append(Finding(model=checked.name, file=file, message=message, fix=fix, severity="warning"))


def _texts(fault: Fault) -> tuple[str, ...]:
    return getattr(fault, "texts", ()) or (fault.message,)


def _blame_code(checked: Checked, config: ModelConfig, path: Path, version_path: Path, error: BaseException) -> None:
    """What opening has raised: the fault of a line of the model's own code, where it tells one."""
    fault = as_fault(error)
    raised = _raised_in(fault.message, path)
    code = version_path / (config.default_model_filename or "model.py")
    if raised is None and (isinstance(error, ConfigRefused) or config.backend != "python" or not code.is_file()):
        checked.blame(_texts(fault))
        return
    file, line = raised or (str(code), 1)
    message = fault.message.partition("\n")[0]
    checked.findings.append(
        Finding(
            model=checked.name,
            file=file,
            line=line,
            column=1,
            message=message,
            fix=fix_in(message),
            severity="warning" if NOBODY in message else "fault",
        )
    )


def _raised_in(message: str, path: Path) -> tuple[str, int] | None:
    """File and line of the model's own code from which an error came, as the Python backend tells it."""
    places = [(file, int(line)) for file, line in _RAISED.findall(message) if file.startswith(f"{path}/")]
    return places[0] if places else None  # innermost first


def _label_files(config: ModelConfig) -> Mapping[str, str]:
    return {output.name: output.label_filename for output in config.output if output.label_filename}


class _Heard(logging.Handler):
    """What the engine and backends warn of becomes warnings of the model."""

    def __init__(self, checked: Checked, path: str) -> None:
        super().__init__(logging.WARNING)
        self._checked = checked
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().split("\n", 1)[0]
        told = record.levelno >= logging.ERROR and record.name.startswith("despina.backends.")
        raised = told or record.exc_info is not None  # that becomes a fault
        if (
            not raised
            and record.name not in _UNTOLD
            and not any(message == known.message for known in self._checked.findings)
        ):
            self._checked.findings.append(
                Finding(model=self._checked.name, file=self._path, message=message, severity="warning")
            )
