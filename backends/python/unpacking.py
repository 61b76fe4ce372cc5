"""Archives of environments: what may come out of one, and where. Blocking file access.

Nothing is written outside of the folder, whatever the archive says: files first, while there are no links that they
could be written through; then links, and none may lead out, on its own or by others.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeError)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive, compressed or not, into `folder`, which is empty. Raises InvalidArgument for an entry that
    leaves it or is no file, folder or link, and for what is no archive; then some of it may be there."""
    hard: list[tarfile.TarInfo] = []
    soft: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(archive, "r|*") as entries:
            for entry in entries:
                place = folder / _inside(entry.name, entry.name)
                if entry.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                elif entry.isreg():
                    _write(entries, entry, place)
                elif entry.islnk():
                    hard.append(entry)
                elif entry.issym():
                    soft.append(entry)
                else:
                    raise _refused(entry.name, "is no file, folder or link")
        _link(folder, hard, soft)
    except _BROKEN as error:
        raise InvalidArgument(f"'{archive}' cannot be unpacked: {error}") from error
    except InvalidArgument as refused:
        raise InvalidArgument(f"'{archive}' is not unpacked: {refused.message}") from None


def _inside(path: str, name: str) -> PurePosixPath:
    """`path` of the entry `name`, for below the folder."""
    given = PurePosixPath(path)
    if given.is_absolute():
        raise _refused(name, f"names the absolute path '{path}'")
    if ".." in given.parts:
        raise _refused(name, f"names the path '{path}', which may leave it")
    return given


def _write(entries: tarfile.TarFile, entry: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    content = entries.extractfile(entry)
    assert content is not None, "it is a file"
    with content, place.open("xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    place.chmod(0o600 | entry.mode & 0o755)


def _link(folder: Path, hard: Sequence[tarfile.TarInfo], soft: Sequence[tarfile.TarInfo]) -> None:
    for entry in hard:
        place, target = folder / _inside(entry.name, entry.name), folder / _inside(entry.linkname, entry.name)
        if not target.is_file():
            raise _refused(entry.name, f"is a link to '{entry.linkname}', which is no file before it")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        os.link(target, place)
    real = os.path.realpath(folder)
    for entry in soft:
        inside = _inside(entry.name, entry.name)
        place = folder / inside
        if os.path.isabs(entry.linkname):
            raise _refused(entry.name, f"is a link to the absolute path '{entry.linkname}'")
        if os.path.realpath(place.parent) != os.path.join(real, *inside.parent.parts):
            raise _refused(entry.name, "is below a link")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(entry.linkname)
    for entry in soft:  # each may be led by others, whatever their order
        led = os.path.realpath(folder / entry.name)
        if led != real and not led.startswith(real + os.sep):
            raise _refused(entry.name, f"is a link to '{entry.linkname}', which leaves it")


def _refused(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"its entry '{name}' {why}")
