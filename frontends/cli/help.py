"""The texts of `--help`, made from the option table."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import attrs

from ...engine.port.settings import EngineSettings
from ..grpc.settings import GrpcSettings
from ..http.settings import HttpSettings
from ..log_settings import LogSettings
from ..metrics.settings import MetricsSettings
from .options import GROUPS
from .settings import DoorSettings, TlsOptions

if TYPE_CHECKING:
    from .option import Option

USAGE = "Usage: despina serve --model-repository=PATH [options]     (despina serve --help lists the options)"

MAIN_HELP = """\
Despina serves machine-learning models over HTTP and gRPC, in the protocol of NVIDIA Triton.

  despina serve --model-repository=PATH [options]    load the models of a repository and serve them
  despina infer MODEL --input NAME=VALUE [options]   send one request to a running server
  despina --version                                  the version

Each verb has --help.

Try it:

  despina serve --model-repository=examples/models
  despina infer file_type --input CONTENT=@photo.jpg
"""

_INTRODUCTION = """\
Usage: despina serve --model-repository=PATH [options]

Loads every model of the repository, then opens the doors: HTTP on port 8000, gRPC on 8001, metrics on 8002.
SIGINT or SIGTERM ends it once what is in flight is answered.

Options are written --name=value or --name value; booleans are true/on/1 or false/off/0. Each may also be set in the
environment (--http-port is DESPINA_HTTP_PORT; several values are separated by ';') or in a TOML file given by --config.
The command line wins over the environment, that over the file. Names are tritonserver's; `Ours` marks the others.
"""

_PARTS: dict[str, Any] = {
    "engine": EngineSettings,
    "doors": DoorSettings,
    "http": HttpSettings,
    "http_tls": TlsOptions,
    "grpc": GrpcSettings,
    "grpc_tls": TlsOptions,
    "metrics": MetricsSettings,
    "log": LogSettings,
}


def default_of(option: Option) -> object:
    """The default that stands beside the option's field; None where there is none."""
    settings = _PARTS.get(option.part)
    if settings is None or option.repeat:
        return None
    default = getattr(attrs.fields(settings), option.field_name).default
    return None if isinstance(default, attrs.Factory) or default is attrs.NOTHING else default  # type: ignore[arg-type]  # attrs types Factory as a function


def shown(value: object) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def serve_help() -> str:
    """Everything about `despina serve`, for stdout."""
    lines = [_INTRODUCTION]
    for group, options in GROUPS.items():
        lines.append(f"{group}:")
        for option in options:
            default = default_of(option)
            text = option.text if default in (None, "") or option.flag else f"{option.text} [{shown(default)}]"
            head = f"  --{option.name}{option.placeholder}"
            body = textwrap.wrap(text, width=118 - 44)
            if len(head) > 42:
                lines.append(head)
                head = ""
            lines.append(f"{head:<44}{body[0]}")
            lines += [f"{'':<44}{line}" for line in body[1:]]
        lines.append("")
    return "\n".join(lines).rstrip()
