"""`despina info`: what is installed here, and what would be needed for more."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import TYPE_CHECKING, Any

import click

from .verbs import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES = """
Examples:
  despina info
  despina info --json
"""
_LIBRARIES = ("numpy", "trio", "orjson", "hypercorn", "prometheus-client")
_EXTRAS = {
    "cloud": ("obstore", "buckets of S3, Google and Azure as repositories"),
    "otel": ("opentelemetry-sdk", "traces to OpenTelemetry"),
    "redis": ("redis", "Redis as a response cache"),
    "client": ("tritonclient", "Triton's client"),
}
"""Extra -> the distribution that tells whether it is there, and what for."""


@click.command("info", cls=Verb, epilog=_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verb(*, as_json: bool) -> None:
    """Show versions, devices, and backends with what is missing to have them."""
    found = gathered()
    if as_json:
        import orjson

        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    from .sheet import sheet

    print(sheet(("what", "is"), [*found["versions"].items(), *found["devices"].items()]))
    for title in ("backends", "caches", "extras"):
        rows = [(item["name"], "yes" if item["available"] else "no", item["is"]) for item in found[title]]
        print()
        print(sheet((title[:-1], "there", ""), rows))


def gathered() -> dict[str, Any]:
    """Everything that is shown. Imports no framework."""
    from ... import __version__
    from ...engine.engine import PROTOCOL_VERSION
    from ...native.compiled import is_compiled

    versions = {"despina": __version__, "protocol": f"of Triton {PROTOCOL_VERSION}"}
    versions["its code"] = "compiled on a request's way" if is_compiled() else "interpreted"
    versions["Python"] = f"{platform.python_version()} ({sys.executable})"
    versions["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    versions |= {name: _version(name) for name in _LIBRARIES}
    return {
        "versions": versions,
        "devices": _devices(),
        "backends": _backends(),
        "caches": [
            {"name": name, "available": name not in _EXTRAS or bool(_version(_EXTRAS[name][0])), "is": where}
            for name, where in _plugins("despina.caches")
        ],
        "extras": [
            {"name": extra, "available": bool(_version(name)), "is": f"{what}: {_got(extra, name)}"}
            for extra, (name, what) in _EXTRAS.items()
        ],
    }


def _devices() -> dict[str, str]:
    from ...engine.repository.devices import find_gpus

    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = find_gpus()
    return {
        "CPU": f"{cores} of {os.cpu_count()} cores",
        "memory": f"{memory / 2**30:.1f} GiB",
        "GPUs": ", ".join(str(ordinal) for ordinal in gpus) or "none that the driver lists and the environment shows",
    }


def _backends() -> list[dict[str, Any]]:
    from ...engine.repository.discovery import GROUP, Backends
    from ...schema.fault import Fault
    from .check.finding import fix_in

    backends = Backends()
    found = []
    for name, _ in _plugins(GROUP):
        try:
            summary = backends.get(name).config_summary()
        except Fault as fault:
            summary = fault.message
            available = False
        else:
            available = not fix_in(summary)
        found.append({"name": name, "available": available, "is": summary})
    found.append({"name": "*", "available": True, "is": "libraries in C++, libtriton_NAME.so (--backend-directory)"})
    return found


def _got(extra: str, name: str) -> str:
    version = _version(name)
    return f"{name} {version}" if version else f"{name} is not installed (pip install 'despina[{extra}]')"


def _plugins(group: str) -> Sequence[tuple[str, str]]:
    """Names, and where they come from."""
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
    return [(name, entry.value) for name, entry in sorted(entries.items()) if name != "*"]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
