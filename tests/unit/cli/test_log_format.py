"""Log lines: their two forms, their levels, and where they go."""

from __future__ import annotations

import logging
import re
import sys

import pytest
from despina.frontends.cli.log_format import TABLE, LineFormatter, configure_logging
from despina.frontends.log_settings import LogSettings


@pytest.fixture
def quiet_root():
    """Puts the process's logging back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("despina")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def record(message, level=logging.INFO, **extra):
    made = logging.LogRecord("despina.x", level, "/src/serve.py", 45, message, (), None)
    made.created = 1795361070.333312
    made.__dict__.update(extra)
    return made


def test_default_form():
    """Goal: severity, month and day, UTC time with microseconds, pid, place, quoted message."""
    line = LineFormatter(LogSettings()).format(record('say "hi"\nthere\t\u00e9'))
    assert re.fullmatch(r'I1122 15:24:30\.33331\d \d+ serve\.py:45\] "say \\"hi\\"\\nthere\\té"', line)


def test_iso_form_and_unquoted():
    """Goal: the ISO8601 form, and messages as they are when escaping is off."""
    line = LineFormatter(LogSettings(format="ISO8601"), escape=False).format(record("a\nb", logging.WARNING))
    assert re.fullmatch(r"2026-11-22T15:24:30Z W \d+ serve\.py:45\] a\nb", line)


def test_table_is_written_as_it_is():
    """Goal: tables stay readable below their head line."""
    assert LineFormatter(LogSettings()).format(record("+--+\n|  |", **TABLE)).endswith("serve.py:45] \n+--+\n|  |\n")


def test_traceback_is_inside_the_quotes():
    """Goal: one record is one line, a traceback in it."""
    try:
        raise ValueError("bad \udcff name")
    except ValueError:
        made = record("it failed", logging.ERROR, exc_info=sys.exc_info())
    line = LineFormatter(LogSettings()).format(made)
    assert line.startswith("E")
    assert "\n" not in line
    assert "Traceback" in line


def test_arguments_that_do_not_fit(capsys, quiet_root):
    """Goal: a slip in a user model's own logging neither raises nor prints a traceback."""
    configure_logging(LogSettings())
    logging.getLogger("despina.test").error("%d items", "many")
    err = capsys.readouterr().err
    assert "%d items (its arguments do not fit: " in err
    assert "Traceback" not in err


def test_levels_go_to_their_streams(capsys, quiet_root):
    """Goal: INFO to stdout, WARNING and ERROR to stderr, each behind its own switch."""
    settings = LogSettings(warning=False)
    configure_logging(settings)
    log = logging.getLogger("despina.test")
    log.info("one")
    log.warning("two")
    log.error("three")
    log.debug("four")
    out, err = capsys.readouterr()
    assert "one" in out
    assert "three" in err
    assert "two" not in out + err
    assert "four" not in out + err
    settings.info = False
    log.info("five")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("verbose", "shown"), [(0, 0), (1, 1), (2, 2), (20, 2)])
def test_verbose_levels(capsys, quiet_root, verbose, shown):
    """Goal: verbose level 1 is DEBUG, level 2 the one below, marked I like the protocol's."""
    configure_logging(LogSettings(verbose=verbose))
    log = logging.getLogger("despina.test")
    log.log(logging.DEBUG, "level one")
    log.log(9, "level two")
    out = capsys.readouterr().out
    assert len(out.splitlines()) == shown
    assert all(line.startswith("I") for line in out.splitlines())


def test_log_file_takes_everything(tmp_path, capsys, quiet_root):
    """Goal: with a file nothing goes to the console, and what was there stays."""
    path = tmp_path / "server.log"
    path.write_text("before\n")
    configure_logging(LogSettings(file=str(path)))
    logging.getLogger("despina.test").info("one")
    logging.getLogger("despina.test").error("two")
    assert capsys.readouterr() == ("", "")
    assert [line.split(" ")[-1] for line in path.read_text().splitlines()] == ["before", '"one"', '"two"']
