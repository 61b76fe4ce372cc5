"""The house rules that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(sys.executable).parent


def run(checkout: Path, *command: str) -> None:
    """Runs one checker in the checkout; what it printed is the failure's text."""
    done = subprocess.run(command, cwd=checkout, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}", pytrace=False)


def test_lint_rules_hold(checkout):
    """Goal: no finding of the lint rules in pyproject.toml."""
    run(checkout, sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise", ".")


def test_format_is_settled(checkout):
    """Goal: one format for everybody."""
    run(checkout, sys.executable, "-m", "ruff", "format", "--check", "--quiet", ".")


def test_types_are_complete_and_right(checkout):
    """Goal: `mypy --strict` finds nothing in the package."""
    run(checkout, sys.executable, "-m", "mypy", "--no-error-summary")


def test_layers_are_kept(checkout):
    """Goal: the floors in pyproject.toml: of the whole, the engine, the doors; no framework at the top of a module."""
    run(checkout, str(TOOLS / "lint-imports"), "--no-cache")


def test_words_are_spelled(checkout):
    """Goal: no known misspelling in code, comments or pages."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    names = [name for name in tracked.stdout.decode().split("\0") if name and (checkout / name).is_file()]
    words = [name for name in names if name.endswith((".py", ".md", ".toml", ".proto", ".pbtxt", "Makefile"))]
    if not words:  # not a git checkout: an unpacked source distribution
        words = ["schema", "engine", "backends", "frontends", "tests", "fuzz", "examples", "README.md"]
    run(checkout, str(TOOLS / "codespell"), *words)


def test_tables_of_rules_name_tests_that_are_there(checkout):
    """Goal: what shows a rule is where its row says, `folder/test_x.py`, and each `::test_y` in the file before it."""
    missing = []
    for page in (checkout / "engine").rglob("*.md"):
        for row in page.read_text().splitlines():
            if not row.startswith("|"):
                continue
            text = ""
            for path, name in re.findall(r"([\w/]*test_\w+\.py)|::(test_\w+)", row):
                if path:
                    found = (checkout / "tests").rglob(Path(path).name)
                    files = [file for file in found if str(file).endswith(path)]
                    text = "".join(file.read_text() for file in files)
                if not re.search(rf"^(async )?def {name}\(", text, re.MULTILINE) if name else not text:
                    missing.append(f"{page.name}: {path or name}")
    assert not missing


def test_each_rule_says_where_it_lives_and_what_shows_it(checkout):
    """Goal: no cell of the engine's tables of rules is empty, and every file or folder that they name is there."""
    parts = ("schema", "engine", "backends", "frontends", "tests")
    paths = [f"/{path.relative_to(checkout)}" for part in parts for path in (checkout / part).rglob("*")]
    wrong, header = [], []
    for page in (checkout / "engine").rglob("*.md"):
        for row in page.read_text().splitlines():
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            if not row.startswith("|"):
                header = []
            elif not header:
                header = cells
            elif header[0] == "rule" and not set(row) <= set("|-"):
                named = re.findall(r"[\w/]+(?:\.py|/)(?!\w)", cells[1])
                there = all(any(path.endswith("/" + name.strip("/")) for path in paths) for name in named)
                if len(cells) != 3 or not all(cells) or not named or not there:
                    wrong.append(f"{page.name}: {row}")
    assert not wrong


def test_pages_link_to_what_is_there(checkout):
    """Goal: whoever follows a link of a page finds a file or a folder, also after one has moved."""
    pages = [checkout / "README.md"]
    for part in ("schema", "engine", "backends", "frontends", "tests", "fuzz", "examples"):
        pages += (checkout / part).rglob("*.md")
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if not target.startswith(("http:", "https:"))
    ]
    assert links
    assert not [(page.name, target) for page, target in links if not (page.parent / target).exists()]
