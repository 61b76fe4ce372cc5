"""`despina serve` for the help and for shells: its options come from the table, and its own parser reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .option import boolean
from .options import OPTIONS
from .verbs import Verb

if TYPE_CHECKING:
    from .option import Option

_FILES = ("-file", "-cert", "-key", "-directory", "-repository", "-store")


class _Serve(Verb):
    """Takes every argument as it is: command_line.py has the syntax of tritonserver's options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return args

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [click.Argument(["model_repository"], type=click.Path(file_okay=False)), *map(_offered, _options())]

    def get_help(self, ctx: click.Context) -> str:
        from .help import serve_help

        return serve_help()


def _options() -> list[Option]:
    return [option for option in OPTIONS.values() if option.fate == "used"]


def _offered(option: Option) -> click.Option:
    """As a shell may complete it: the name, and values where they are few or files."""
    kind: click.ParamType[object]
    word = option.parse.__name__
    if option.parse is boolean:
        kind = click.Choice(["true", "false"])
    elif "|" in word:
        kind = click.Choice(word.split("|"))
    elif option.name.endswith(_FILES) or option.name == "config":
        kind = click.Path()
    else:
        kind = click.STRING
    names = [f"--{option.name}", *(["-m"] if option.name == "model-repository" else [])]
    if option.flag:
        return click.Option(names, is_flag=True, help=option.text)
    return click.Option(names, type=kind, help=option.text, multiple=option.repeat)


@click.pass_context
def _serve(ctx: click.Context) -> int:
    from .serve import serve

    return serve(ctx.args)


verb = _Serve("serve", callback=_serve, add_help_option=False)
