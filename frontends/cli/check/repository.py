"""What is wrong with repositories: the places themselves, each model, and how ensembles and their models fit."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING

import attrs

from ....engine.model.ensemble.fit import check_fit
from ....engine.model.ensemble.graph import Graph, members
from ....engine.repository.devices import find_gpus
from ....engine.repository.repositories import open_folders
from ....schema.fault import Fault
from ..repositories import model_here
from .finding import Finding, fix_in
from .model import Checked, ModelCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ....engine.port.settings import EngineSettings
    from ....engine.repository.repositories import Folders


@attrs.frozen
class Report:
    models: int
    """How many were looked at."""
    findings: Sequence[Finding]

    def faults(self) -> int:
        return sum(finding.severity == "fault" for finding in self.findings)


def check_repositories(
    settings: EngineSettings, only: Collection[str], *, opening: bool, say: Callable[[str], None]
) -> Report:
    """Checks the repositories of the settings. `only` these models, or all; `say` hears which comes next. Blocking;
    while it runs nobody else reads the log of this process."""
    logger = logging.getLogger("despina")
    before, logger.propagate = logger.propagate, False  # its lines become findings
    try:
        return _check(settings, only, opening=opening, say=say)
    finally:
        logger.propagate = before


def _check(settings: EngineSettings, only: Collection[str], *, opening: bool, say: Callable[[str], None]) -> Report:
    check = ModelCheck(settings, find_gpus(), opening=opening)
    findings: list[Finding] = []
    found: dict[str, Checked] = {}
    everything: set[str] = set()
    for location in settings.model_repository:
        problem = _place_problem(location)
        if problem is not None:
            findings.append(problem)
            continue
        folders = open_folders(location)
        try:
            names = sorted(folders.directories())
        except Fault as fault:
            findings.append(Finding(model="", file=location, message=fault.message, fix=fix_in(fault.message)))
            continue
        if not names:
            findings.append(Finding(model="", file=location, message="there is no model in it", severity="warning"))
        everything.update(names)
        for name in names:
            if only and name not in only:
                continue
            if name in found and not settings.model_namespacing:
                message = f"model '{name}' is in several repositories"
                fix = "--model-namespacing=true, or another name for one of them"
                findings.append(Finding(model=name, file=f"{location}/{name}", message=message, fix=fix))
            say(name)
            found[name] = _checked(check, folders, name)
    places = " ".join(settings.model_repository)
    whole = not only
    for name in sorted({*only} - {*found}):
        near = _near(name, [known for known in everything if known != name])
        findings.append(Finding(model=name, file=places, message=f"there is no model '{name}'", fix=near))
    for checked in found.values():
        if checked.is_sound and checked.config is not None and checked.config.ensemble_scheduling is not None:
            _check_ensemble(checked, found, whole=whole)
    for checked in found.values():
        findings += sorted(checked.findings, key=lambda finding: (finding.file, finding.line, finding.column))
    return Report(len(found), findings)


def _place_problem(location: str) -> Finding | None:
    """Why a location cannot be a repository."""
    try:
        folders = open_folders(location)
        folders.check()
    except (ValueError, Fault) as problem:
        message = str(problem)
        return Finding(model="", file=location, message=message, fix=fix_in(message))
    parent = model_here(location)
    if parent:
        message = f"this is a model, not a repository of models; did you mean its parent, {parent}?"
        return Finding(model="", file=location, message=message, fix=f"despina check {parent}")
    return None


def _checked(check: ModelCheck, folders: Folders, name: str) -> Checked:
    try:
        source = folders.fetch(name, None)
    except (Fault, OSError) as problem:
        place = f"{folders.location}/{name}"
        return Checked(name, findings=[Finding(model=name, file=place, message=str(problem))])
    try:
        checked = check.check(name, source.path)
        _rename(checked, str(source.path), f"{folders.location.removesuffix('/')}/{name}")
        return checked
    finally:
        if source.discard is not None:
            source.discard()


def _rename(checked: Checked, fetched: str, place: str) -> None:
    """What was fetched lay somewhere for a moment; whoever mends it knows it by its own place."""
    checked.file = checked.file.replace(fetched, place)
    checked.findings = [
        attrs.evolve(
            finding,
            file=finding.file.replace(fetched, place),
            message=finding.message.replace(fetched, place),
            fix=finding.fix.replace(fetched, place),
        )
        for finding in checked.findings
    ]


def _check_ensemble(ensemble: Checked, found: Mapping[str, Checked], *, whole: bool) -> None:
    config = ensemble.config
    assert config is not None, "of a sound model"
    missing = [name for name in members(config) if name not in found]
    for name in missing if whole else ():
        ensemble.blame([f"a step asks model '{name}', which is in no repository"], _near(name, found))
    if missing:
        return
    parts = [found[step.model_name] for step in Graph.of(config).steps]
    configs = [part.config for part in parts if part.config is not None and part.is_sound]
    if len(configs) == len(parts) and all(part.input and part.output for part in configs):
        try:
            check_fit(config, configs)
        except Fault as fault:
            ensemble.blame(getattr(fault, "texts", ()) or (fault.message,))


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else ""
