"""What tells one make of a model from another, for what outlives a load. Blocking file access."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from ...schema.wire.generated.inference import ModelConfig

READ_BYTES_MAX: Final = 1024 * 1024
"""Larger files are told apart by their time: reading weights would take as long as loading them."""


def fingerprint(model: Path, version: Path, config: ModelConfig) -> str:
    """A digest over the configuration and over the files of the version, and those beside the versions: names, sizes,
    and what is in them, or for large ones when they were written."""
    digest = blake2b(bytes(config), digest_size=16)
    files = [path for path in model.iterdir() if path.is_file() and path.name != "config.pbtxt"]
    files += [path for path in version.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for path in sorted(files):
        status = path.stat()
        small = status.st_size <= READ_BYTES_MAX
        content = path.read_bytes() if small else str(status.st_mtime_ns).encode()
        digest.update(f"{path.relative_to(model)}\0{status.st_size}\0{small}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return digest.hexdigest()
