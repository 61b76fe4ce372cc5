"""Everything that `despina serve` was told: one settings class per concern, put together and checked as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from ...engine.settings import EngineSettings
from ..grpc.settings import GrpcSettings
from ..http.settings import HttpSettings
from ..log_settings import LogSettings
from ..metrics.settings import MetricsSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .command_line import Values

RESTRICTED_APIS = (
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
)


@attrs.frozen(kw_only=True)
class DoorSettings:
    """Which doors are open, and where. Port 0 is any free one."""

    allow_http: bool = True
    http_address: str = "0.0.0.0"
    http_port: int = 8000
    reuse_http_port: bool = False
    http_server: Literal["trio", "hypercorn"] = "trio"
    allow_grpc: bool = True
    grpc_address: str = "0.0.0.0"
    grpc_port: int = 8001
    reuse_grpc_port: bool = False
    allow_metrics: bool = True
    metrics_address: str = ""
    """Empty: where HTTP listens."""
    metrics_port: int = 8002

    def open_doors(self) -> Iterator[tuple[str, str, int]]:
        """Name, address and port of each open door."""
        if self.allow_http:
            yield "HTTP", self.http_address, self.http_port
        if self.allow_grpc:
            yield "GRPC", self.grpc_address, self.grpc_port
        if self.allow_metrics:
            yield "metrics", self.metrics_address or self.http_address, self.metrics_port


@attrs.frozen(kw_only=True)
class ServeSettings:
    """The whole. Made by `settle`, which checks what no single class can."""

    engine: EngineSettings
    doors: DoorSettings
    http: HttpSettings
    grpc: GrpcSettings
    metrics: MetricsSettings
    log: LogSettings


class BadSettings(Exception):
    """`complaints` says everything that is wrong, in the protocol's words where it has some."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__("\n".join(complaints))
        self.complaints = complaints


def settle(values: Values) -> ServeSettings:
    """Makes the settings from what was given. Raises BadSettings with every complaint at once."""
    complaints = list(values.complaints)

    def made(build: Callable[..., Any], given: dict[str, Any]) -> Any:
        try:
            return build(**given)
        except (ValueError, TypeError) as error:
            complaints.append(str(error.args[0]) if error.args else str(error))
            return None

    engine = values.part("engine")
    if "backend_config" in engine:
        engine["backend_config"] = _folded(engine["backend_config"])
    if not engine.get("model_repository"):
        complaints.append("--model-repository must be specified")
        engine["model_repository"] = ()
    complaints += _load_complaints(engine)
    http = values.part("http")
    if "restricted" in http:
        http["restricted"] = _restricted(http["restricted"], complaints)
    doors = DoorSettings(**values.part("doors"))
    complaints += _door_complaints(doors)
    if doors.http_server == "hypercorn":
        http["server"] = "hypercorn"
    parts = {
        "engine": made(EngineSettings, engine),
        "http": made(HttpSettings, http),
        "grpc": made(GrpcSettings, values.part("grpc")),
        "metrics": made(MetricsSettings, values.part("metrics")),
        "log": made(LogSettings, values.part("log")),
    }
    if complaints:
        raise BadSettings(complaints)
    return ServeSettings(doors=doors, **parts)


def _folded(settings: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    folded: dict[str, dict[str, str]] = {}
    for backend, setting, value in settings:
        folded.setdefault(backend, {})[setting] = value
    return folded


def _load_complaints(engine: dict[str, Any]) -> list[str]:
    load = engine.get("load_model", [])
    if load and engine.get("model_control_mode") != "explicit":
        return ["Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well."]
    if "*" in load and len(load) > 1:
        return ["Error: --load-model=* loads every model; it cannot stand beside another --load-model."]
    return []


def _door_complaints(doors: DoorSettings) -> list[str]:
    opened = list(doors.open_doors())
    if not opened:
        return ["Error: every door is closed; allow at least one of HTTP, gRPC and metrics."]
    return [
        f"The server cannot listen to {one} requests and {two} requests at the same address and port {address}:{port}"
        for index, (one, address, port) in enumerate(opened)
        for two, other_address, other_port in opened[index + 1 :]
        if port and (address, port) == (other_address, other_port)
    ]


def _restricted(texts: Iterable[str], complaints: list[str]) -> dict[str, tuple[bytes, bytes]]:
    """`<apis>:<key>=<value>` texts as one table of categories."""
    restricted: dict[str, tuple[bytes, bytes]] = {}
    for text in texts:
        names, colon, secret = text.partition(":")
        key, equals, value = secret.partition("=")
        if not (names and colon and key and equals):
            complaints.append(f"--http-restricted-api option format is '<apis>:<key>=<value>'. Got {text}")
            continue
        for name in names.split(","):
            if name not in RESTRICTED_APIS:
                complaints.append(f"unknown restricted api '{name}'")
            elif name in restricted:
                complaints.append(f"restricted api '{name}' can not be specified in multiple config groups")
            else:
                restricted[name] = (key.lower().encode(), value.encode())
    return restricted
