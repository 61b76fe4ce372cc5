"""The changelog's pieces: what the next release says is put together from files that a machine can read."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import despina
import pytest

LINE = re.compile(r"[A-Z`].*[.!?]$", re.DOTALL)
WORDS_MAX = 70


def kinds(checkout):
    with (checkout / "pyproject.toml").open("rb") as file:
        return {kind["directory"] for kind in tomllib.load(file)["tool"]["towncrier"]["type"]}


def complaints(name, text, known):
    """What is wrong with a file of changes.d, if anything."""
    found = []
    match = re.fullmatch(r"\+[a-z0-9]+(?:-[a-z0-9]+)*\.([a-z]+)\.md", name)
    if match is None:
        found.append("its name is not +words-with-hyphens.KIND.md")
    elif match[1] not in known:
        found.append(f"its kind is none of {', '.join(sorted(known))}")
    if not LINE.fullmatch(text.strip()):
        found.append("it is not a sentence: a capital letter or code first, a full stop last")
    if len(text.split()) > WORDS_MAX:
        found.append(f"it has more than {WORDS_MAX} words")
    if re.search(r"^\s*([#*-]|\d+\.)", text, re.MULTILINE):
        found.append("it has headings or lists, which have no place in a list of changes")
    return found


def test_pieces_are_well_formed(checkout):
    """Goal: whoever writes one wrongly hears it here, not at the release."""
    known = kinds(checkout)
    pieces = [path for path in (checkout / "changes.d").iterdir() if path.name != "README.md"]
    wrong = {path.name: found for path in pieces if (found := complaints(path.name, path.read_text(), known))}
    assert not wrong


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.added.md", "It is.", "name"),
        ("+a_b.added.md", "It is.", "name"),
        ("+a.feature.md", "It is.", "kind"),
        ("+a.fixed.md", "", "sentence"),
        ("+a.fixed.md", "Without an end", "sentence"),
        ("+a.fixed.md", "A list:\n- one.", "lists"),
        ("+a.fixed.md", "Word " * 80 + "end.", "words"),
    ],
)
def test_slips_are_found(checkout, name, text, complaint):
    """Goal: the check can fail."""
    found = complaints(name, text, kinds(checkout))
    assert any(complaint in one for one in found), found


def test_the_page_of_rules_knows_the_same_kinds(checkout):
    """Goal: one list of kinds, wherever it is read."""
    page = (checkout / "changes.d" / "README.md").read_text()
    assert set(re.findall(r"^\| ([a-z]+) \|", page, re.MULTILINE)) == kinds(checkout)


def test_the_changelog_knows_this_version(checkout):
    """Goal: a version that is raised has its section, and versions are newest first."""
    text = (checkout / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\d+\.\d+\.\d+), \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert despina.__version__ in versions
    as_numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert as_numbers == sorted(as_numbers, reverse=True)


def test_towncrier_puts_them_together(checkout):
    """Goal: each piece's first words are in what the next release would say."""
    pytest.importorskip("towncrier", reason="towncrier is not installed here")
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--date", "2000-01-01"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## 9.9.9, 2000-01-01" in done.stdout
    for path in (checkout / "changes.d").glob("+*.md"):
        assert path.read_text().strip() in done.stdout, path.name
