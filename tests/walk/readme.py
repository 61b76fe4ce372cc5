"""The README, word by word, in a fresh copy of what is committed: commands and answers as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

from tests.examples.named_extras import named
from tests.walk.terminal import at_terminal, too_wide
from tests.walk.walking import NotHere

if TYPE_CHECKING:
    from pathlib import Path

    from tests.walk.walking import Walk

PORTS = (8000, 8001, 8002)
_TABLE = re.compile(r"^[+|].*[+|]$")
_INSTALL_S = 600


def copied(checkout: Path, folder: Path) -> Path:
    """What is committed, elsewhere."""
    copy = folder / "despina"
    copy.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=checkout, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(copy)], input=archive, check=True)
    return copy


def fresh_venv(folder: Path) -> Path:
    """A virtual environment with nothing but pip. Returns its folder of programs."""
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin"


def installed(programs: Path, requirements: list[str], cwd: Path) -> None:
    """pip, as the README has it."""
    said(f"{programs / 'pip'} install --quiet --disable-pip-version-check {shlex.join(requirements)}", cwd, _INSTALL_S)


def said(command: str, cwd: Path, seconds: float = 120) -> str:
    """What a line typed into a shell prints. AssertionError if it fails."""
    done = subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True, timeout=seconds, env=_clean())
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def two_commands(walk: Walk, copy: Path) -> None:
    """`make serve`, and everything that the page then asks."""
    page = (copy / "README.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    prompts = [text for _, text in blocks if text.startswith("$ ")]
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise NotHere(f"port {port}, which the README names, is taken")
    with at_terminal(["make", "serve"], copy, _clean()) as terminal:
        with walk.step("make serve: installs, fetches the models, serves; its tables fit the terminal"):
            terminal.wait_for("Started Metrics Service", _INSTALL_S)
            assert not too_wide([line for line in terminal.lines() if _TABLE.match(line)])
        for text in prompts:
            command, _, answer = _as_typed(text)
            with walk.step(f"{command.splitlines()[0][:60]}: the answer that the page shows"):
                shown = said(command, copy)
                assert _without_last_digits(shown) == _without_last_digits(answer), shown
        with walk.step("the snippet for Triton's own client, with what its line installs"):
            line = re.search(r"And with Triton's own client \(`\.venv/bin/(pip install [^`]+)`\)", page)
            assert line is not None
            said(f".venv/bin/{line[1]} --quiet --disable-pip-version-check", copy, _INSTALL_S)
            snippet = next(text for kind, text in blocks if kind == "python" and "tritonclient" in text)
            _run_python(copy, snippet, "[[b'shell']]")
        with walk.step("the snippet for a program of one's own"):
            snippet = next(text for kind, text in blocks if kind == "python" and "open_engine" in text)
            _run_python(copy, snippet, "[[2 2 2 2 2 2 2 2 2 2 2 2 2 2 2 2]]")
        _examples(walk, copy)
        with walk.step("^C at make serve: the server ends"):
            terminal.type("\x03")
            terminal.end()
            assert "Traceback" not in terminal.text, terminal.text[-3000:]


def _examples(walk: Walk, copy: Path) -> None:
    """Each in an environment with the extras that it names, and nothing else."""
    made: dict[tuple[str, ...], Path] = {}
    with walk.step("examples/01_curl.sh"):
        said("sh examples/01_curl.sh", copy)
    for program in sorted((copy / "examples").glob("[0-9]*.py")):
        requirements = named(program.read_text())
        key = tuple(requirements)
        with walk.step(f"examples/{program.name}, after pip install {' '.join(requirements)}"):
            if key not in made:
                made[key] = fresh_venv(copy.parent / f"venv{len(made)}")
                # This project is not fetched from anywhere but here.
                here = [
                    text.replace("despina", ".", 1) if text.startswith("despina") else text for text in requirements
                ]
                installed(made[key], here, copy)
            last = said(f"{made[key] / 'python'} {program}", copy).strip().splitlines()[-1]
            walk.note(last[:100])


def _as_typed(text: str) -> tuple[str, str, str]:
    """The command behind the prompt, over as many lines as its quotes are open, and what it answers."""
    lines = text.removeprefix("$ ").splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        command = "".join(lines[:count])
        try:
            shlex.split(command)
        except ValueError:
            continue
        return command.strip(), "", "".join(lines[count:])
    raise AssertionError(text)


def _without_last_digits(text: str) -> str:
    """A score depends on the file that is asked about, and on the machine."""
    return re.sub(r"(\.\d\d)\d+", r"\1", text.strip())


def _run_python(copy: Path, snippet: str, shows: str) -> None:
    program = copy.parent / "snippet.py"
    program.write_text(snippet)
    assert shows in said(f".venv/bin/python {program}", copy)


def _clean() -> dict[str, str]:
    """Without what belongs to the environment that the walk itself runs in."""
    own = os.path.dirname(sys.executable)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MAKEFLAGS", "MAKELEVEL")
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, "PATH": path}
