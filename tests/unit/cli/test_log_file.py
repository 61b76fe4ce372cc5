"""The log's file: full disks, rotation, and lines that cannot be formatted."""

from __future__ import annotations

import errno
import logging
import os

import pytest
from despina.frontends.cli import log_file as log_file_module
from despina.frontends.cli.log_file import LogFile


@pytest.fixture
def log(tmp_path):
    """A logger that writes to a LogFile; `.file` is that, `.path` its name. The module's own lines go there, too."""
    file = LogFile(str(tmp_path / "log"))
    ours = logging.getLogger("despina.serve")
    before = ours.level
    ours.addHandler(file)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    ours.file, ours.path = file, tmp_path / "log"
    yield ours
    ours.removeHandler(file)
    ours.setLevel(before)
    ours.propagate = True
    file.close()


def test_full_disk(log, capsys, monkeypatch):
    """Goal: lines are lost, standard error says so once; when there is room again the file says how many."""
    real, room = os.write, [8]

    def write(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(log_file_module.os, "write", write)
    log.info("one")
    log.info("two, torn")
    log.info("three")
    room[0] = 1000
    log.info("four")
    monkeypatch.undo()
    assert log.path.read_text().splitlines() == ["one", "two,", "four", "lines of this log that were lost: 2"]
    assert capsys.readouterr().err == f"error: {log.path}: No space left on device; lines of the log are lost\n"


def test_rotation(log):
    """Goal: what follows goes to the new file; a name that cannot be opened leaves the old one in use."""
    log.info("one")
    log.path.rename(log.path.with_name("old"))
    log.file.reopen()
    log.info("two")
    assert log.path.with_name("old").read_text() == "one\n"
    assert log.path.read_text().splitlines() == [f"opened the log file {log.path} anew", "two"]
    log.path.unlink()
    log.path.mkdir()
    log.file.reopen()
    log.info("three")
    assert not list(log.path.iterdir())


def test_rotation_without_a_signal(log):
    """Goal: a file that was moved away or removed has a successor with the next line; one whose name cannot be opened
    stays in use, and so does one that its mover has copied and truncated."""
    log.info("one")
    log.path.rename(log.path.with_name("old"))
    log.info("two")
    assert (log.path.with_name("old").read_text(), log.path.read_text()) == ("one\n", "two\n")
    log.path.unlink()
    log.info("three")
    assert log.path.read_text() == "three\n"
    os.truncate(log.path, 0)
    log.info("four")
    assert log.path.read_text() == "four\n"
    old = log.path.rename(log.path.with_name("older"))
    log.path.mkdir()
    log.info("five")
    assert old.read_text() == "four\nfive\n"


def test_line_that_cannot_be_formatted(log, capsys):
    """Goal: the caller, a user's model perhaps, hears nothing of it."""
    for message, arguments in (("%d", ("no number",)), ("a half \ud800 character", ())):
        log.file.handle(logging.LogRecord("a", logging.INFO, "model.py", 1, message, arguments, None))
    assert log.path.read_text().splitlines()[0] == "a half \\ud800 character"
    assert "lines of the log are lost" in capsys.readouterr().err


def test_not_for_children(log):
    """Goal: a program that a model starts does not inherit the file."""
    assert not os.get_inheritable(log.file.descriptor)
