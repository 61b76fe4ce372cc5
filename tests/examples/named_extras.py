"""Environments that hold what a `pip install` line would bring and nothing else, made of what is installed here.

Installing anew for every line is too dear for a test; links to the same files are as good to see what is missing.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LINE = re.compile(r"`pip install ([^`]+)`")


def named(text: str) -> list[str]:
    """The requirements of the first `pip install` line of a text."""
    match = LINE.search(text)
    assert match is not None, "it names no `pip install` line"
    return shlex.split(match[1])


def closure(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Every distribution that pip would bring for them, by its name. Raises PackageNotFoundError for one that is not
    installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [Requirement(text) for text in requirements]
    done = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in done:
            continue
        done.add((name, frozenset(requirement.extras)))
        found[name] = distribution = importlib.metadata.distribution(name)
        for line in distribution.requires or ():
            more = Requirement(line)
            if more.marker is None or any(
                more.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                wanted.append(more)
    return found


def modules(requirements: list[str]) -> set[str]:
    """The names at the top that can be imported then, besides the standard library's."""
    distributions = closure(requirements).keys()
    provided = importlib.metadata.packages_distributions()
    return {
        module for module, names in provided.items() if distributions & {canonicalize_name(name) for name in names}
    } | (distributions & {"despina"})


def environment(folder: Path, requirements: list[str]) -> Path:
    """Makes a virtual environment in `folder` that holds them. Returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in closure(requirements).values():
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"
