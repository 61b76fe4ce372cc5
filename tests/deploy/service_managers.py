"""A real systemd for tests: a user manager in namespaces of its own, where this machine runs none.

It sees the machine's files, the loopback and nothing of its processes; whatever it started ends with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

WAIT_S = 60.0
SYSTEMD = "/lib/systemd/systemd"

# What a boot makes: the sign that systemd runs, and what it mounts over what a service may not see.
_BOOT = """
set -e
mount -t tmpfs tmpfs /run
hidden=/run/systemd/inaccessible
mkdir -p /run/systemd/system "$hidden/dir"
touch "$hidden/reg"
mkfifo "$hidden/fifo"
mknod "$hidden/chr" c 0 0
mknod "$hidden/blk" b 0 0
touch "$hidden/sock"
chmod 0 "$hidden"/*
"$0" --user &
wait
"""


def why_none() -> str:
    """Why there can be none here; empty if there can."""
    tools = ("systemctl", "unshare", "nsenter")
    if missing := [tool for tool in (*tools, SYSTEMD) if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    if os.getuid() != 0:
        return "needs root, for namespaces"
    if Path("/run/systemd/system").exists():
        return "this machine runs systemd; the tests start one only where there is none"
    allowed = subprocess.run(["unshare", "-m", "-p", "-f", "--mount-proc", "true"], capture_output=True)
    return "" if allowed.returncode == 0 else f"no namespaces here: {allowed.stderr.decode().strip()}"


class UserManager:
    """`systemctl` for it."""

    def __init__(self, home: Path, runtime: Path) -> None:
        self.units = home / ".config" / "systemd" / "user"
        self.environment = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
        self.pid = 0
        """Of the first process in its namespaces."""

    def systemctl(self, *arguments: str) -> str:
        """What it prints. AssertionError if it fails."""
        command = ["nsenter", f"--target={self.pid}", "--mount", "--pid"]  # it hears nobody from elsewhere
        command += ["systemctl", "--user", "--no-pager", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def until(self, unit: str, name: str, *values: str) -> str:
        """Waits for one of these values."""
        give_up = time.monotonic() + WAIT_S
        while (found := self.property(unit, name)) not in values:
            assert time.monotonic() < give_up, f"{unit}: {name} is {found!r}\n{self.systemctl('show', unit)}"
            time.sleep(0.05)
        return found


@contextlib.contextmanager
def user_manager(folder: Path):
    """One that runs; its log is in `folder`, whose path shall be short."""
    home, runtime = folder / "home", folder / "run"
    manager = UserManager(home, runtime)
    manager.units.mkdir(parents=True)
    runtime.mkdir(mode=0o700)
    before = _groups()
    command = ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", _BOOT, SYSTEMD]
    with (folder / "manager.log").open("wb") as log:
        child = subprocess.Popen(command, env=manager.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        give_up = time.monotonic() + WAIT_S
        while not (runtime / "systemd" / "private").exists():
            assert child.poll() is None, (folder / "manager.log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        manager.pid = int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text())
        yield manager
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        _remove(_groups() - before)


def _groups() -> set[Path]:
    """The control groups at the top, where such a manager makes its own."""
    return {group for top in Path("/sys/fs/cgroup").glob("*") for group in top.glob("*.s[lc]*") if group.is_dir()}


def _remove(groups: set[Path]) -> None:
    """A group is empty a moment after its last process has ended."""
    for top in groups:
        for folder in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
            for _ in range(100):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                else:
                    break
