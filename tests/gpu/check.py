"""Every check that needs a GPU, and its figures: `make gpu`, or this file by any Python that has despina installed.

Prints one line a check: passed, failed or skipped, with the reason and the time, and figures below their check. Without
a GPU everything is skipped by name. Needs cupy, tritonclient with its two clients, and the packages of the server. Also
used, where installed: torch, tensorrt, onnxruntime-gpu. No network. Under five minutes: each check runs in a
process of its own, which is killed when its time is over, and none stops the next.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.gpu import engine_checks, server_checks
from tests.gpu.machine import Skipped, about, has, why_not
from tests.gpu.models import write_plan, write_torchscript
from tests.gpu.served import Served, Server, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHECK_SECONDS_MAX = 60
FIGURES_SECONDS_MAX = 100
WHOLE_SECONDS_MAX = 285
PROBE_SECONDS_MAX = 45
MADE = {"plan": "tensorrt", "torchscript": "torch"}
"""The server's models that are made beforehand, and the package that makes each."""
SKIPPED = 77
"""The exit status of a check that cannot run here; its last line says why."""


@attrs.frozen
class Check:
    """`run` gets the served models where it needs them, else a folder of its own."""

    name: str
    run: Callable[..., None]
    needs_server: bool
    seconds_max: int = CHECK_SECONDS_MAX


def all_checks() -> list[Check]:
    """In their order: what is cheap first, figures last."""
    return [
        *(Check(name, run, needs_server=False) for name, run in engine_checks.CHECKS.items()),
        *(Check(name, run, needs_server=True) for name, run in server_checks.CHECKS.items()),
        Check("figures", server_checks.print_figures, needs_server=True, seconds_max=FIGURES_SECONDS_MAX),
    ]


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 if a check failed."""
    if arguments:
        return run_here(*arguments)
    until_s = time.monotonic() + WHOLE_SECONDS_MAX
    print(f"GPU checks, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}", flush=True)
    missing, text = ask(["--probe"], PROBE_SECONDS_MAX)
    if missing:
        why = text.strip().splitlines()[-1] if text.strip() else "the GPU could not be asked"
        for check in all_checks():
            print(f"skipped  {check.name}: {why}")
        return 0
    print(text.strip(), flush=True)
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        server: Server | None = None
        why = ""
        try:
            for check in all_checks():
                if check.needs_server and server is None and not why:
                    server, why = start(Path(folder))
                if check.needs_server and why:
                    verdicts.append(say("skipped", check.name, 0, f": the server did not start: {why}"))
                    continue
                where = server.served if check.needs_server and server is not None else None
                verdicts.append(run(check, where, Path(folder) / check.name, until_s))
        finally:
            if server is not None:
                server.close()
    return int("FAILED" in verdicts or bool(why))


def start(folder: Path) -> tuple[Server | None, str]:
    """The server with its models; else why there is none, with what it said last."""
    for name, package in MADE.items():
        path = folder / "server" / "models" / name
        if has(package):
            status, text = ask(["--make", name, str(path)], CHECK_SECONDS_MAX)
            if status:
                shutil.rmtree(path, ignore_errors=True)
                print(f"no model '{name}' for the server (exit status {status}): {text[-500:]}", flush=True)
    server = Server(folder / "server")
    try:
        until(server.is_ready)
    except AssertionError as problem:
        server.close()
        return None, f"{problem}\n{server.served.log_tail()}"
    return server, ""


def run(check: Check, served: Served | None, folder: Path, until_s: float) -> str:
    """Does one check in a process of its own, prints its line, and tells its verdict."""
    seconds = min(check.seconds_max, int(until_s - time.monotonic()))
    if seconds < 5:
        return say("skipped", check.name, 0, ": the time for all is over")
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    where = json.dumps(attrs.asdict(served)) if served is not None else str(folder)
    status, text = ask(["--one", check.name, where, str(seconds)], seconds)
    spent = time.perf_counter() - began
    if status == 0:
        return say("passed", check.name, spent, "\n" + text.rstrip() if text.strip() else "")
    if status == SKIPPED:
        return say("skipped", check.name, spent, f": {text.strip().splitlines()[-1]}")
    reason = f"more than {seconds} s" if status == -signal.SIGKILL else f"exit status {status}"
    log = f"\nThe server's log ends:\n{served.log_tail()}" if served is not None else ""
    return say("FAILED", check.name, spent, f": {reason}\n{text.rstrip()}{log}")


def say(verdict: str, name: str, seconds: float, rest: str) -> str:
    print(f"{verdict:7}  {name} ({seconds:.1f} s){rest}", flush=True)
    return verdict


def ask(arguments: Sequence[str], seconds: float) -> tuple[int, str]:
    """Runs this file again: its exit status, -SIGKILL when its time was over, and what it printed. Nothing of it is
    left, whatever it started."""
    child = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    status: int | None = None
    try:
        text, _ = child.communicate(timeout=seconds)
        status = child.returncode
    except subprocess.TimeoutExpired:
        kill(child)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that a driver does not let go of
            text, _ = child.communicate(timeout=5)
            return -signal.SIGKILL, text
        return -signal.SIGKILL, "it cannot be killed"
    finally:
        kill(child)
    return status, text


def kill(child: subprocess.Popen[str]) -> None:
    """With all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def run_here(what: str, name: str = "", where: str = "", seconds: str = "0") -> int:
    """Inside the process of one check, or of the question whether there is anything to check."""
    if what == "--make":
        {"plan": write_plan, "torchscript": write_torchscript}[name](Path(where))
        return 0
    if what == "--probe":
        why = why_not()
        print(why or about())
        return int(bool(why))
    faulthandler.dump_traceback_later(max(int(seconds) - 3, 1))  # where it hangs, before it is killed
    check = next(check for check in all_checks() if check.name == name)
    place = Served(**json.loads(where)) if check.needs_server else Path(where)
    try:
        check.run(place)
    except Skipped as why:
        print(why)
        return SKIPPED
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    # What a framework's threads do at the end of a process is not checked here.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
