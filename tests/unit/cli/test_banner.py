"""The tables of a starting server: their form, and that they fit a terminal and a log alike."""

from __future__ import annotations

import despina
from despina.frontends.cli.banner import backends_table, models_table, options_table
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.settings import settle
from despina.frontends.cli.table import table

from tests.fakes import FakeBackend, write_model

LONG = "x" * 200


def test_form():
    """Goal: ruled as the reference server's; cells of several lines; brackets and colons are text; an empty table."""
    assert table(("A", "Bee"), [("1", "[red]x[/]\n:smile:")]) == (
        "+---+-----------+\n"
        "| A | Bee       |\n"
        "+---+-----------+\n"
        "| 1 | [red]x[/] |\n"
        "|   | :smile:   |\n"
        "+---+-----------+"
    )
    assert table(("A",), []) == "+---+\n| A |\n+---+\n+---+"


def test_width(monkeypatch):
    """Goal: 80 columns whatever the texts and the surroundings; nothing is cut off; no colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    text = table(("Model", "Version", "Status"), [(LONG, "1", f"UNAVAILABLE: {LONG} two words"), ("m", "2", "READY")])
    assert {len(line) for line in text.split("\n")} == {80}
    assert text.count("x") == 2 * len(LONG)
    assert "two words" in text
    assert "\x1b" not in text


def test_every_option_fits():
    """Goal: the table of settings has every option's whole name, a value beside it, and fits."""
    settings = settle(read_command_line(["--model-repository=/models", f"--id={LONG}"], {}))
    text = options_table(settings, despina.Engine(settings.engine))
    assert max(map(len, text.split("\n"))) <= 80
    assert "| strict_readiness                      | true" in text
    assert "| grpc_infer_response_compression_level | none" in text
    assert f"| despina_version                       | {despina.__version__}" in text


async def test_models_and_backends(tmp_path):
    """Goal: what serves and what failed, each with its reason."""
    backend = FakeBackend()
    write_model(tmp_path, "good")
    write_model(tmp_path, "bad", more='parameters { key: "DESPINA_EXECUTOR" value { string_value: "no such" } }')
    write_model(tmp_path, "unread", config="no configuration")
    write_model(tmp_path, "without", versions=())
    async with despina.open_engine(tmp_path, backends={"fake": backend}, exit_on_error=False) as engine:
        models, backends = models_table(engine), backends_table(engine)
    assert "| good    | 1       | READY" in models
    assert "| bad     | 1       | UNAVAILABLE: Unavailable: model 'bad', parameter" in models
    assert "| unread  | -       | Not loaded: " in models
    assert "| without | -       | Not loaded: No model version was found" in models
    assert "no such" in models
    assert "| fake" in backends


def test_secrets_are_not_shown():
    """Goal: a cache's password is in no log."""
    values = read_command_line(
        ["--model-repository=m", "--cache-config=redis,host=h", "--cache-config=redis,password=secret"], {}
    )
    settings = settle(values)
    text = options_table(settings, despina.Engine(settings.engine))
    assert "redis,host=h redis,password=..." in text
    assert "secret" not in text
