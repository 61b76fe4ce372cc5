"""`despina check`: every fault of a model repository, without a server."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from .verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .check.repository import Report

_EPILOG = """
Each line is FILE:LINE:COLUMN: what is wrong, and below it what mends it, where
that is known. Exit code 1 if a model would not be served; warnings leave it 0.

Examples:
  despina check /models
  despina check /models --model resnet --json
  despina check /models --no-open            (read the files, open no model)
  despina check s3://bucket/models
"""


@click.command("check", cls=Verb, epilog=_EPILOG)
@click.argument("repositories", nargs=-1, required=True, metavar="REPOSITORY...", type=click.Path())
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this one. Repeatable.")
@click.option(
    "--no-open",
    is_flag=True,
    help="Open no model, and no instance of one: quick, and needs no framework.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--model-config-name", default="", metavar="TEXT", help="As of serve.")
@click.option("--disable-auto-complete-config", is_flag=True, help="As of serve.")
@click.option("--model-namespacing", is_flag=True, help="As of serve.")
@click.option("--backend-directory", default="", type=click.Path(), metavar="FOLDER", help="As of serve.")
@click.option("--backend-config", multiple=True, metavar="[BACKEND,]NAME=VALUE", help="As of serve. Repeatable.")
def verb(
    *,
    repositories: tuple[str, ...],
    models: tuple[str, ...],
    no_open: bool,
    as_json: bool,
    model_config_name: str,
    disable_auto_complete_config: bool,
    model_namespacing: bool,
    backend_directory: str,
    backend_config: tuple[str, ...],
) -> int:
    """Find every fault of the models in REPOSITORY, without starting a server."""
    from ...engine.port.settings import EngineSettings
    from .check.repository import check_repositories
    from .option import backend_setting

    folded: dict[str, dict[str, str]] = {}
    try:
        for backend, setting, value in map(backend_setting, backend_config):
            folded.setdefault(backend, {})[setting] = value
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    given: dict[str, Any] = {"backend_directory": backend_directory} if backend_directory else {}
    settings = EngineSettings(
        model_repository=repositories,
        model_config_name=model_config_name,
        disable_auto_complete_config=disable_auto_complete_config,
        model_namespacing=model_namespacing,
        backend_config=folded,
        **given,
    )
    with _progress() as say:
        report = check_repositories(settings, models, opening=not no_open, say=say)
    _print(report, repositories, as_json=as_json)
    return 1 if report.faults() else 0


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A moving line on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("looking") as status:
        yield lambda name: status.update(f"checking {escape(name)}")


def _print(report: Report, repositories: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        import orjson

        said = {
            "repositories": list(repositories),
            "models": report.models,
            "faults": report.faults(),
            "findings": [finding.as_json() for finding in report.findings],
        }
        print(orjson.dumps(said, option=orjson.OPT_INDENT_2).decode())
        return
    for finding in report.findings:
        print(finding)
    faults = report.faults()
    warnings = len(report.findings) - faults
    counted = [_many(report.models, "model"), _many(faults, "fault")]
    if warnings:
        counted.append(_many(warnings, "warning"))
    print(", ".join(counted))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}" if count else f"no {thing}s"
