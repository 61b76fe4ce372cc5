"""`despina completion`: the script by which a shell completes the command."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

from .main import COMPLETION_VARIABLE
from .verbs import Verb, despina

_EXAMPLES = """
Examples:
  despina completion bash > ~/.local/share/bash-completion/completions/despina
  despina completion zsh > ~/.zfunc/_despina         (a folder of $fpath)
  despina completion fish > ~/.config/fish/completions/despina.fish
"""


@click.command("completion", cls=Verb, epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
def verb(shell: str | None) -> None:
    """Print the script by which a SHELL (that of $SHELL, if not given) completes verbs, options and files."""
    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    found = get_completion_class(name)
    if found is None:
        raise click.ClickException(f"which shell? One of bash, zsh, fish; $SHELL says '{name}'")
    click.echo(found(despina, {}, "despina", COMPLETION_VARIABLE).source())
