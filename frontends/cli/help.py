"""The texts of `--help`, made from the option table."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Any

import attrs

from ...engine.port.settings import EngineSettings
from ..grpc.settings import GrpcSettings
from ..http.cloud.settings import SageMakerSettings, VertexAiSettings
from ..http.settings import HttpSettings
from ..log_settings import LogSettings
from ..metrics.settings import MetricsSettings
from .options import GROUPS
from .settings import DoorSettings, TlsOptions
from .single_model import SingleModelSettings

if TYPE_CHECKING:
    from .option import Option

USAGE = "Usage: despina serve MODEL_REPOSITORY... [options]     (despina serve --help lists the options)"

WIDTH_MAX = 119

_INTRODUCTION = """\
Usage: despina serve MODEL_REPOSITORY... [options]

Loads every model of the repository, then opens the doors: HTTP on port 8000,
gRPC on 8001, metrics on 8002. SIGINT or SIGTERM ends it once what is in flight
is answered; SIGHUP reads certificates and opens the log file anew.

Examples:
  despina serve /models
  despina serve -m /models --http-port=9000 --allow-metrics=false
  despina serve --model-repository=s3://bucket/models \\
                --model-control-mode=explicit --load-model=resnet
  despina serve --config=server.toml --log-verbose=1

Options are written --name=value or --name value; booleans are true/on/1 or
false/off/0. -m is --model-repository. Each may also be set in the environment
(--http-port is DESPINA_HTTP_PORT; several values are separated by ';') or in a
TOML file given by --config. The command line wins over the environment, that
over the file. Names are tritonserver's; `Ours` marks the others.
"""

_PARTS: dict[str, Any] = {
    "engine": EngineSettings,
    "doors": DoorSettings,
    "http": HttpSettings,
    "http_tls": TlsOptions,
    "grpc": GrpcSettings,
    "grpc_tls": TlsOptions,
    "metrics": MetricsSettings,
    "single_model": SingleModelSettings,
    "sagemaker": SageMakerSettings,
    "vertex_ai": VertexAiSettings,
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
    """Everything about `despina serve`, for stdout: as wide as the terminal, up to WIDTH_MAX."""
    width = min(max(shutil.get_terminal_size((80, 24)).columns, 60), WIDTH_MAX)
    beside = width >= WIDTH_MAX
    indent = 44 if beside else 10
    lines = [_INTRODUCTION]
    for group, options in GROUPS.items():
        lines.append(f"{group}:")
        for option in options:
            default = default_of(option)
            text = option.text if default in (None, "") or option.flag else f"{option.text} [{shown(default)}]"
            head = f"  --{option.name}{option.placeholder}"
            body = textwrap.wrap(text, width=width - 1 - indent)
            if len(head) > width:  # a choice of many words
                head, _, words = head.partition("=")
                head += "=WORD"
                body = textwrap.wrap(f"One of {words.replace('|', ', ')}. {text}", width=width - 1 - indent)
            if not beside or len(head) > indent - 2:
                lines.append(head)
                head = ""
            lines.append(f"{head:<{indent}}{body[0]}")
            lines += [f"{'':<{indent}}{line}" for line in body[1:]]
        lines.append("")
    return "\n".join(lines).rstrip()
