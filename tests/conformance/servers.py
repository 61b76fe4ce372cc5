"""Starts a server as a child process for the conformance tests: the reference server, or this project's own.

Both get a private copy of a model repository, free ports on 127.0.0.1 and the same options. Nothing is left behind:
leaving the context stops the child with SIGTERM, and with SIGKILL if it has not gone after a grace time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tests import in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 3.0
ASKED_MAX = 5
_UNSAID: Any = object()
NOTHING: Mapping[str, str] = {}
"""More to have in the environment."""


@attrs.frozen
class Server:
    """A running server: where its doors are, which process it is and which repository it serves."""

    http_port: int
    grpc_port: int
    metrics_port: int
    pid: int
    repository: Path
    log: Path


def reference_script() -> Path | None:
    """The script that runs the reference server, or None where this machine has none.

    `DESPINA_REFERENCE_TRITON` names it; beside the checkout it is found without.
    """
    named = os.environ.get("DESPINA_REFERENCE_TRITON")
    script = Path(named) if named else HERE.parents[2] / "shared" / "tools" / "reference_triton.sh"
    return script if script.is_file() else None


@contextlib.contextmanager
def running_reference(
    models: Path, folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] = NOTHING
) -> Iterator[Server]:
    """The reference server over a copy of `models`. RuntimeError, with the end of the log, if it does not start."""
    script = reference_script()
    assert script is not None, "ask reference_script() first"
    repository = copied(models, folder)
    ports = free_ports(3)
    command = ["bash", str(script), str(repository), *map(str, ports), *options]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **environment}
    try:
        with running(command, folder, repository, ports, environment) as server:
            yield server
    finally:  # a server that had to be killed leaves its models' shared memory, which the script names after the port
        for left in Path("/dev/shm").glob(f"reference{ports[0]}*"):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def running_despina(
    models: Path, folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] = NOTHING
) -> Iterator[Server]:
    """This project's server over a copy of `models`. RuntimeError, with the end of the log, if it does not start."""
    repository = copied(models, folder)
    ports = free_ports(3)
    doors = ("http", "grpc", "metrics")
    command = [str(Path(sys.executable).parent / "despina"), "serve", f"--model-repository={repository}"]
    command += [f"--{door}-address=127.0.0.1" for door in doors]
    command += [f"--{door}-port={port}" for door, port in zip(doors, ports, strict=True)]
    with running([*command, *options], folder, repository, ports, {**os.environ, **environment}) as server:
        yield server


def running_in_process(
    models: Path, folder: Path, options: Sequence[str] = ()
) -> contextlib.AbstractContextManager[Server]:
    """As `running_despina`, with all Python models in the server's process: it starts sooner."""
    return running_despina(models, folder, (*options, in_process.OPTION))


def asked_again(ask: Callable[[Path], Any], recorded: object, folder: Path) -> Any:
    """What a server says; asked until it has said all that is recorded, up to `ASKED_MAX` times. Of each part of an
    answer (a member of a dict, at any depth) what was once said as recorded counts, else what was said last.

    The reference server's threads race, and some questions end it; of this project's server only what depends on real
    times is asked so: on a busy machine a story's clients are late, now in one part of it and now in another.
    """
    said: Any = _UNSAID
    for turn in range(ASKED_MAX):
        try:
            said = _as_recorded(ask(_made(folder / f"asked{turn}")), said, recorded)
        except Exception:
            if said is _UNSAID and turn == ASKED_MAX - 1:
                raise
        if said == recorded:
            break
    return said


def _as_recorded(said: Any, before: Any, recorded: Any) -> Any:
    if isinstance(said, dict) and isinstance(before, dict) and isinstance(recorded, dict):
        return {name: _as_recorded(one, before.get(name, _UNSAID), recorded.get(name)) for name, one in said.items()}
    return before if before == recorded else said


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def copied(models: Path, folder: Path) -> Path:
    """A private copy of a repository: servers may write beside models, and tests change files."""
    repository = folder / "repository"
    shutil.copytree(models, repository, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return repository


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: all are held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, repository: Path, ports: Sequence[int], environment: dict[str, str]
) -> Iterator[Server]:
    """The child process of `command` from the moment that its HTTP door says live until the block is left."""
    log = folder / "server.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment, process_group=0
        )
    try:
        wait_until_live(child, ports[0], log)
        yield Server(ports[0], ports[1], ports[2], child.pid, repository, log)
    finally:
        stop(child)


def wait_until_live(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns when the server answers that it is live."""
    give_up = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < give_up and child.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/live", timeout=5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {child.args}\n{log.read_text(errors='replace')[-4000:]}")


def stop(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and everything in its process group."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS_MAX)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
