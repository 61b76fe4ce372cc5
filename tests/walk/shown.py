"""The first minutes at a terminal: start, look, ask, stop."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.conformance.servers import free_ports
from tests.walk.terminal import at_terminal, too_wide

if TYPE_CHECKING:
    from pathlib import Path

    from tests.walk.walking import Walk

_TABLE = re.compile(r"^[+|].*[+|]$")
_ONES = ",".join(["1"] * 16)


def first_minutes(walk: Walk, despina: Path, models: Path, folder: Path) -> None:
    """Everything at a terminal of 80 columns. `models` has addsub."""
    with walk.step("despina --help, and that of every verb: nothing is wider than the terminal"):
        verbs = _helped(despina, folder, "--help")
        for verb in re.findall(r"^  ([a-z]+)  ", verbs.partition("Verbs:")[2], re.MULTILINE):
            _helped(despina, folder, verb, "--help")
    with walk.step("despina srve: the verb that was meant is named"):
        text = _said(despina, folder, "srve", code=None)
        assert "serve" in text.partition("srve")[2], text
    http, grpc, metrics = free_ports(3)
    command = [despina, "serve", "--model-repository", models, f"--http-port={http}", f"--grpc-port={grpc}"]
    with at_terminal([*command, f"--metrics-port={metrics}"], folder) as terminal:
        with walk.step("despina serve: tables of models and options that fit, and the addresses of the doors"):
            terminal.wait_for("Started Metrics Service")
            tables = [line for line in terminal.lines() if _TABLE.match(line)]
            assert any("addsub" in line and "READY" in line for line in tables), terminal.text
            assert not too_wide(tables)
            assert f":{http}" in terminal.text
            assert f":{grpc}" in terminal.text
        with walk.step("despina infer, from another terminal: the answer in words"):
            inputs = ["--input", f"INPUT0={_ONES}", "--input", f"INPUT1={_ONES}"]
            text = _said(despina, folder, "infer", "addsub", "--url", f"localhost:{http}", *inputs)
            assert "OUTPUT0: INT32 1x16" in text, text
            assert not too_wide(text.splitlines()), text
        with walk.step("^C: the server says what it does, and ends with exit code 0"):
            terminal.type("\x03")
            assert terminal.end() == 0, terminal.text
            assert "Traceback" not in terminal.text


def _helped(despina: Path, folder: Path, *arguments: str) -> str:
    text = _said(despina, folder, *arguments)
    assert not too_wide(text.splitlines()), too_wide(text.splitlines())
    return text


def _said(despina: Path, folder: Path, *arguments: str, code: int | None = 0) -> str:
    """What it shows at a terminal. `code` is the exit code that it should have; None: any but 0."""
    with at_terminal([despina, *arguments], folder) as terminal:
        ended = terminal.end()
    assert ended == code if code is not None else ended != 0, f"exit code {ended}:\n{terminal.text}"
    assert "Traceback" not in terminal.text, terminal.text
    return terminal.text
