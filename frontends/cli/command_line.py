"""From the command line, the environment and a file to one value per option; every complaint at once.

argv ─────┐
DESPINA_* ├──▶ Given(option, texts, source) ──▶ Values (by target), complaints, notes
TOML file ┤    the first source that has the target wins
AIP_*... ─┘    (what Vertex AI and SageMaker say: cloud_options.py)
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .cloud_options import hosting_environment
from .options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .option import Option

_REPOSITORY = OPTIONS["model-repository"]


@attrs.define
class Given:
    """An option that somebody gave, with its texts in order."""

    option: Option
    texts: list[str]
    source: str
    """Where it was given, for complaints: `--http-port`, `DESPINA_HTTP_PORT` or `file.toml:3`."""


@attrs.define
class Values:
    """What was asked for. `complaints` is empty when the server may start."""

    by_target: dict[str, Any] = attrs.field(factory=dict)
    """`part.field` -> value; repeated options give lists. Only what was given: defaults stand beside the fields."""
    sources: dict[str, str] = attrs.field(factory=dict)
    """Target -> where its value was given, for complaints about several values together."""
    complaints: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    """What was accepted and changes nothing; logged on start."""
    wants_help: bool = False

    def part(self, name: str) -> dict[str, Any]:
        """The given fields of one settings class."""
        prefix = f"{name}."
        return {
            target.removeprefix(prefix): value for target, value in self.by_target.items() if target.startswith(prefix)
        }


def read_command_line(arguments: Sequence[str], environment: Mapping[str, str]) -> Values:
    """Reads all three sources. Never raises: what is wrong stands in `complaints`."""
    values = Values()
    flags = _from_arguments(arguments, values)
    variables = _from_environment(environment, values)
    sources = [flags, variables]
    config = next((given.texts[-1] for source in sources for given in source if given.option.name == "config"), None)
    if config is not None:
        sources.append(_from_file(Path(config), values))
    sources.append(
        [Given(OPTIONS[name], [text], variable) for name, text, variable in hosting_environment(environment)]
    )
    settled: set[str] = set()
    for source in sources:
        mine = [given for given in source if (given.option.target or given.option.name) not in settled]
        for given in mine:
            _settle(given, values)
        settled |= {given.option.target or given.option.name for given in mine}
    return values


def _from_arguments(arguments: Sequence[str], values: Values) -> list[Given]:
    """A word that belongs to no option is a model repository, as with -m."""
    found: dict[str, Given] = {}

    def add(option: Option, text: str) -> None:
        found.setdefault(option.name, Given(option, [], f"--{option.name}")).texts.append(text)

    rest = iter(arguments)
    for argument in rest:
        if argument in ("--help", "-h"):
            values.wants_help = True
            continue
        if argument == "--":
            for repository in rest:
                add(_REPOSITORY, repository)
            break
        if not argument.startswith("-") or argument == "-":
            add(_REPOSITORY, argument)
            continue
        if argument.startswith("-m"):
            text = argument[2:].removeprefix("=") or next(rest, None)
            if text is None:
                values.complaints.append("option '-m' requires an argument")
            else:
                add(_REPOSITORY, text)
            continue
        if not argument.startswith("--"):
            values.complaints.append(f"Unexpected argument: {argument}")
            continue
        name, equals, text = argument[2:].partition("=")
        try:
            option = _option_that_begins(name)
        except ValueError as problem:
            values.complaints.append(str(problem))
            continue
        if option.flag:
            if equals:
                values.complaints.append(f"option '--{option.name}' doesn't allow an argument")
                continue
            text = "true"
        elif not equals:
            following = next(rest, None)
            if following is None:
                values.complaints.append(f"option '--{option.name}' requires an argument")
                continue
            text = following
        add(option, text)
    return list(found.values())


def _option_that_begins(name: str) -> Option:
    """The option of that name, or the only one that begins with it; ours do not count where one of the reference
    server's does, so that they take no short form away. Raises ValueError, in getopt's words, for none and for many."""
    exact = OPTIONS.get(name)
    if exact is not None:
        return exact
    begun = [option for option in OPTIONS.values() if name and option.name.startswith(name)]
    found = [option for option in begun if not option.ours] or begun
    if not found:
        raise ValueError(f"unrecognized option '--{name}'{_nearest(name)}")
    if len(found) > 1:
        possible = " ".join(f"'--{option.name}'" for option in found)
        raise ValueError(f"option '--{name}' is ambiguous; possibilities: {possible}")
    return found[0]


def _from_environment(environment: Mapping[str, str], values: Values) -> list[Given]:
    """Repeated options are separated by semicolons. Unknown names are only noted: an orchestrator may set its own."""
    variables = {option.variable: option for option in OPTIONS.values()}
    found = []
    for name, text in environment.items():
        option = variables.get(name)
        if option is not None:
            if re.match(r"(tcp|udp)://", text):
                continue  # Kubernetes sets DESPINA_HTTP_PORT=tcp://... for a service called despina-http
            found.append(Given(option, text.split(";") if option.repeat else [text], name))
        elif name.startswith("DESPINA_"):
            near = difflib.get_close_matches(name, variables, n=1, cutoff=0.85)
            if near:
                values.warnings.append(f"environment variable {name} is unknown; did you mean {near[0]}?")
    return found


def _from_file(path: Path, values: Values) -> list[Given]:
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        values.complaints.append(f'Bad option: "--config".\n{path}: {error.strerror}')
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        values.complaints.append(f"{path}: {error}")
        return []
    found = []
    for key, value in table.items():
        name = key.replace("_", "-")
        where = f"{path}:{_line_of(key, text)}"
        option = OPTIONS.get(name)
        if option is None or name == "config":
            values.complaints.append(f"{where}: unknown option '{key}'{_nearest(name)}")
            continue
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, dict | list) for item in items) or (isinstance(value, list) and not option.repeat):
            expected = "a value or a list of values" if option.repeat else "one value"
            values.complaints.append(f"{where}: option '{key}': expected {expected}, got {value!r}")
            continue
        texts = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
        found.append(Given(option, texts, where))
    return found


def _line_of(key: str, text: str) -> int:
    for index, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"""\s*["'\[]?{re.escape(key)}\b""", line):
            return index
    return 1


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"; did you mean '--{near[0]}'?" if near else ""


def _settle(given: Given, values: Values) -> None:
    """Parses the texts of one option and does with them what its fate says."""
    option = given.option
    parsed = []
    for text in given.texts if option.repeat else given.texts[-1:]:
        try:
            parsed.append(option.parse(text))
        except ValueError as error:
            values.complaints.append(bad_option(option.name, given.source, str(error)))
            return
    if option.fate == "no effect":
        values.notes.append(f"{given.source} has no effect here ({option.text.partition(': ')[2].rstrip('.')}).")
    elif option.fate == "not built":
        asked = [text for text in given.texts if text]
        if any(not option.default or option.parse(text) != option.parse(option.default) for text in asked):
            values.complaints.append(bad_option(option.name, given.source, f"{option.text} Leave the option out."))
    elif option.target:
        values.sources[option.target] = given.source
        if option.repeat:
            values.by_target.setdefault(option.target, []).extend(parsed)
        else:
            values.by_target[option.target] = parsed[-1]


def bad_option(name: str, source: str, complaint: str) -> str:
    """The protocol's form: the option's name, then what is wrong, and where if not on the command line."""
    where = "" if source.startswith("--") else f"{source}: "
    return f'Bad option: "--{name}".\n{where}{complaint}'
