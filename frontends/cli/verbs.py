"""The verbs of `despina`, each imported when it is asked for; their mistakes, and what a shell may complete."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem, shell_complete

from ... import __version__
from .main import COMPLETION_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS: Final = {
    "serve": ("serve_verb", "Load the models of a repository and serve them."),
    "infer": ("infer_verb", "Send a request to a running server."),
    "models": ("models_verb", "List, load, unload and show the models of a running server."),
    "health": ("health_verb", "Say whether a running server, or a model of it, is ready."),
    "check": ("check_verb", "Find every fault of a model repository, without a server."),
    "new": ("new_verb", "Write a model for a repository: from a file, or in Python."),
    "info": ("info_verb", "Show versions, devices, and backends with what they lack."),
    "completion": ("completion_verb", "Print what makes a shell complete verbs and options."),
}
"""Verb -> the module whose `verb` it is, and its line in the help."""

SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def write_as_it_is(epilog: str | None, formatter: click.HelpFormatter) -> None:
    """Not filled, as click would: a command line that is broken anywhere cannot be copied."""
    if epilog:
        formatter.write(f"\n{epilog.strip()}\n")


class Verb(click.Command):
    """A verb whose `epilog` is shown as it is written: lines of examples."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_as_it_is(self.epilog, formatter)


class Verbs(click.Group):
    """The same with verbs of its own below it."""

    command_class = Verb

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_as_it_is(self.epilog, formatter)


class _Despina(Verbs):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb: click.Command = importlib.import_module(f".{VERBS[cmd_name][0]}", __package__).verb
        return verb

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Without importing every verb for its line."""
        verbs = [CompletionItem(name, help=text) for name, (_, text) in VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


_EXAMPLES: Final = """
Each verb has --help, with examples.

Try it:
  despina serve examples/models
  despina infer file_type --input CONTENT=@photo.jpg
  despina models list
"""


@click.group(cls=_Despina, context_settings=SETTINGS, epilog=_EXAMPLES, invoke_without_command=True)
@click.version_option(__version__, "--version", message="despina %(version)s", help="Show the version and exit.")
@click.pass_context
def despina(ctx: click.Context) -> None:
    """Despina serves machine-learning models over HTTP and gRPC, in the protocol of NVIDIA Triton."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run_verb(arguments: Sequence[str]) -> int:
    """Runs a verb and gives the exit code: 1 for mistakes and failures, said on stderr."""
    given = list(arguments)
    if given[:1] == ["help"]:
        given = [*given[1:], "--help"]
    try:
        if asked := os.environ.get(COMPLETION_VARIABLE):
            return shell_complete(despina, {}, "despina", COMPLETION_VARIABLE, asked)
        with despina.make_context("despina", given) as ctx:  # not `main`, which has its own mind about broken pipes
            code = despina.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as mistake:
        if mistake.ctx is not None:
            print(mistake.ctx.get_usage(), file=sys.stderr)
            print(f"Try '{mistake.ctx.command_path} --help'.\n", file=sys.stderr)
        print(f"error: {mistake.format_message()}", file=sys.stderr)
        return 1
    except click.ClickException as problem:
        print(f"error: {problem.format_message()}", file=sys.stderr)
        return 1
    except (click.Abort, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return code if isinstance(code, int) else 0
