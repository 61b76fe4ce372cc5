"""`despina health`: what a container's health check runs, where there is no other program that could ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .client.options import server_options
from .verbs import Verb

if TYPE_CHECKING:
    from .client.options import Server

_EPILOG = """
Exit code 0 if the server, or each of the models, is ready; 1 if not, or if
nobody answers, with the reason.

Examples:
  despina health
  despina health --live --url unix:/run/despina/http --timeout 2
  despina health resnet50 bert --url https://models.example
"""


@click.command("health", cls=Verb, epilog=_EPILOG)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--live", is_flag=True, help="Only whether the server answers, whatever its models do.")
@server_options
def verb(*, server: Server, models: tuple[str, ...], live: bool) -> int:
    """Say whether a running server is ready, or these models of it."""
    if live and models:
        raise click.UsageError("--live is asked of a server, not of models")
    with server.calls() as calls:
        problems = [problem for model in models or [""] for problem in calls.problems(model, live=live)]
    for problem in problems:
        click.echo(f"not ready: {problem}", err=True)
    if not problems:
        click.echo("live" if live else "ready")
    return 1 if problems else 0
