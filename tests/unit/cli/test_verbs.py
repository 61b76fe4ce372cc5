"""The command as a whole: verbs, their help, mistakes, and what a shell completes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.verbs import VERBS

from tests.unit.cli.child import COMMAND, MODEL, WAIT_S, Serving, add_model, ask, run


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_examples(verb):
    """Goal: a page that fits 80 columns, with lines to copy."""
    done = ask(verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: despina {verb}" in done.stdout
    assert "Examples:" in done.stdout
    assert f"\n  despina {verb} " in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_the_command_alone_says_what_there_is():
    """Goal: `despina`, `despina --help`, `despina help` show the verbs; --version the version."""
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        done = ask(*arguments)
        assert done.returncode == 0
        assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
    assert "despina models load" in ask("help", "models", "load").stdout
    assert run("--version").stdout.startswith("despina ")


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["srve"], "No such command 'srve'. Did you mean 'serve'?"),
        (["chekk"], "No such command 'chekk'. Did you mean 'check'?"),
        (["completion", "--hlp"], "No such option '--hlp'. Did you mean '--help'?"),
        (["serve", "--http-prt=1"], "unrecognized option '--http-prt'; did you mean '--http-port'?"),
    ],
)
def test_mistyped(arguments, suggestion):
    """Goal: what was probably meant is named; exit code 1."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert suggestion in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["/models"],
        ["-m", "/models"],
        ["-m/models"],
        ["-m=/models"],
        ["--model-repository", "/models"],
        ["--", "/models"],
    ],
)
def test_ways_to_name_the_repository(arguments):
    """Goal: all of them are --model-repository, and may be mixed."""
    values = read_command_line(["--http-port=1", *arguments, "--model-store=/more", "/third"], {})
    assert values.complaints == []
    assert values.by_target["engine.model_repository"] == (
        ["/models", "/third", "/more"] if arguments[0] != "--" else ["/models", "--model-store=/more", "/third"]
    )
    assert values.by_target["doors.http_port"] == 1


def test_repository_option_without_one():
    """Goal: -m at the end says what is missing."""
    assert read_command_line(["-m"], {}).complaints == ["option '-m' requires an argument"]


def test_module_and_bare_repository(tmp_path):
    """Goal: `python -m despina serve FOLDER` is a server."""
    add_model(tmp_path, "sleeper", MODEL)
    with Serving(str(tmp_path), command=[sys.executable, "-m", "despina"]) as server:
        assert server.port("HTTPService")


def completed(*words):
    """What a shell is offered for the last word."""
    environment = {
        **os.environ,
        "_DESPINA_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("despina", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_completion():
    """Goal: verbs, options of serve from the table, values where there are few."""
    assert completed("se") == ["serve"]
    assert completed("serve", "--log-form") == ["--log-format"]
    assert completed("serve", "--http-server", "h") == ["hypercorn"]
    assert completed("serve", "--allow-http", "") == ["true", "false"]
    assert "--header" in completed("infer", "--he")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell):
    """Goal: the script of each shell, which asks this command."""
    script = ask("completion", shell).stdout
    assert f"_DESPINA_COMPLETE={shell}_complete" in script


def test_completion_in_a_real_shell():
    """Goal: bash, having read the script, offers the verb. Method: its function is called as bash calls it."""
    source = f"""
shopt -s expand_aliases
despina() {{ {sys.executable} -m despina "$@"; }}
export -f despina
eval "$(despina completion bash)"
COMP_WORDS=(despina serv) COMP_CWORD=1
_despina_completion {sys.executable.replace("python", "despina")}
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", source], capture_output=True, text=True, timeout=WAIT_S)
    assert done.stdout.split() == ["serve"], done.stderr


def test_tables_at_a_terminal():
    """Goal: at 80 columns no line is cut or longer, and what does not fit breaks in its cell. Method: a real terminal
    device."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen([*COMMAND, "info"], stdout=slave, env={**environment, "TERM": "xterm"}) as process:
        os.close(slave)
        said = b""
        with contextlib.suppress(OSError):  # of a terminal that nobody has open any more
            while more := os.read(master, 65536):
                said += more
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[1m" in said
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("trees ") for line in lines)


def test_serve_imports_nothing_of_the_other_verbs():
    """Goal: the start of a server pays for no verb but its own."""
    program = (
        "import sys; from despina.frontends.cli.main import run; run(['serve', '--nonsense']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S)
    names = set(done.stdout.split())
    assert "despina.frontends.cli.serve" in names
    assert not {"click", "rich", "asyncio", "despina.frontends.cli.verbs", "onnxruntime"} & names
