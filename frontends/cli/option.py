"""What one option of the command line is, and how its text becomes a value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ...engine.port.resources import ResourceLimit
from ..patterns import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

Fate = Literal["used", "no effect", "not built"]


def boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "on", "1"):
        return True
    if lowered in ("false", "off", "0"):
        return False
    raise ValueError(f"invalid value for bool option: {text}")


def integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(f"Invalid option value. Got {text}")
    return int(text)


def positive(text: str) -> int:
    value = integer(text)
    if value <= 0:
        raise ValueError(f"must be greater than 0, got {text}")
    return value


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"Invalid option value. Got {text}") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"must be a number of 0 or more, got {text}")
    return value


def port(text: str) -> int:
    """Any integer: the range is checked for doors that open, as the reference server has it."""
    return integer(text)


def verbosity(text: str) -> int:
    """Levels count from 0; `true` and `false` are 1 and 0."""
    try:
        return int(boolean(text))
    except ValueError:
        return integer(text)


def string(text: str) -> str:
    return text


def choice(name: str, *values: str) -> Callable[[str], str]:
    """One of a few words, in any case; the complaint is the protocol's."""

    def parse(text: str) -> str:
        for value in values:
            if text.lower() == value.lower():
                return value
        raise ValueError(f"invalid argument for --{name}, got: {text} (one of {', '.join(values)})")

    parse.__name__ = "|".join(values)
    return parse


def regular_expression(text: str) -> str:
    compiled(text)
    return text


def backend_setting(text: str) -> tuple[str, str, str]:
    """`[backend,]setting=value` as (backend or "", setting, value)."""
    head, equals, value = text.partition("=")
    backend, _, setting = head.rpartition(",")
    if not equals or not setting or "," in backend:
        raise ValueError(f"--backend-config option format is '<backend name>,<setting>=<value>'. Got {text}")
    return backend, setting, value


def host_setting(text: str) -> tuple[str, str, str]:
    """`policy,setting=value` as its parts."""
    policy, comma, rest = text.partition(",")
    setting, equals, value = rest.partition("=")
    if not (policy and comma and setting and equals and value) or "=" in policy:
        raise ValueError(f"--host-policy option format is '<policy name>,<setting>=<value>'. Got {text}")
    return policy, setting, value


def cache_setting(text: str) -> tuple[str, str, str]:
    """`cache,setting=value` as its parts."""
    head, equals, value = text.partition("=")
    cache, comma, setting = head.partition(",")
    form = "--cache-config option format is <cache name>,<setting>=<value>."
    if not comma or not cache:
        raise ValueError(f"No cache specified. {form} Got {text}")
    if not equals or not setting or "," in setting:
        raise ValueError(f"{form} Got {text}")
    return cache, setting, value


def metric_setting(text: str) -> tuple[str, str]:
    """`setting=value` as a pair."""
    setting, equals, value = text.partition("=")
    if not equals or not setting or "," in setting:
        raise ValueError(f"--metrics-config option format is <setting>=<value>. Got {text}")
    return setting, value


def resource_limit(text: str) -> ResourceLimit:
    """`name:count[:device]`."""
    name, *numbers = text.split(":")
    if len(numbers) not in (1, 2):
        raise ValueError(
            "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or '<resource_name>:<count>'. "
            f"Got {text}"
        )
    count, *device = [integer(number) for number in numbers]
    if count < 0:
        raise ValueError(f"--rate-limit-resource: there cannot be less than nothing of '{name}'. Got {text}")
    return ResourceLimit(name=name, count=count, device=device[0] if device else None)


@attrs.frozen
class Option:
    """One row of the table.

    `target` says which field of which settings class takes the value, as `part.field`; the default stands there.
    Options that have no target have a fate: those that only tune threads or memory pools of the reference server are
    accepted and noted; those that promise what is not built are refused unless they ask for their default.
    """

    name: str
    parse: Callable[[str], Any]
    target: str = ""
    text: str = ""
    repeat: bool = False
    """May be given several times; the values make a list."""
    flag: bool = False
    """Takes no value on the command line; its presence means true."""
    fate: Fate = "used"
    default: str = ""
    """For options that are not built: the one value that asks for nothing. Empty: every use is refused."""

    @property
    def ours(self) -> bool:
        """Whether the reference server has no such option; its text says so."""
        return self.text.startswith("Ours:")

    @property
    def field_name(self) -> str:
        return self.target.partition(".")[2]

    @property
    def part(self) -> str:
        return self.target.partition(".")[0]

    @property
    def variable(self) -> str:
        """The environment variable of the same meaning."""
        return "DESPINA_" + self.name.upper().replace("-", "_")

    @property
    def placeholder(self) -> str:
        """How the help shows the value."""
        names: dict[Callable[[str], Any], str] = {
            boolean: "BOOL",
            integer: "N",
            positive: "N",
            number: "X",
            port: "PORT",
            verbosity: "N",
        }
        named = names.get(self.parse)
        if named is None:
            named = self.parse.__name__ if "|" in self.parse.__name__ else "TEXT"
        return "" if self.flag else f"={named}"
