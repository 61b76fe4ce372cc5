"""Everything that `despina serve` was told: one settings class per concern, put together and checked as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from ...engine.port.settings import EngineSettings
from ..access_log import AccessSettings
from ..grpc.settings import GrpcSettings
from ..http.cloud.settings import SageMakerSettings, VertexAiSettings
from ..http.settings import HttpSettings
from ..log_settings import LogSettings
from ..metrics.settings import MetricsSettings
from ..restricted import GRPC_KEY_PREFIX, read_restrictions
from ..tls import TlsSettings
from .cloud_options import cloud_complaints
from .command_line import bad_option
from .listening import UNIX
from .single_model import SingleModelSettings
from .socket_access import SocketAccess
from .trace_options import TraceOptions, trace_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .command_line import Values


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
    """Empty: where HTTP listens, or on 127.0.0.1 if that is a Unix socket."""
    metrics_port: int = 8002
    lame_duck_secs: float = 0.0
    """Between the signal to stop and the closing of the doors: the server is not ready, and serves."""
    unix_socket_mode: str = ""
    """Octal; empty: what the umask leaves."""
    unix_socket_owner: str = ""
    """USER, USER:GROUP or :GROUP; empty: who runs the server."""
    allow_sagemaker: bool = False
    sagemaker_address: str = "0.0.0.0"
    sagemaker_port: int = 8080
    sagemaker_safe_port_range: str = ""
    """Where the other doors may listen: `first-last`. Empty: anywhere."""
    allow_vertex_ai: bool = False
    vertex_ai_address: str = "0.0.0.0"
    vertex_ai_port: int = 8080

    @property
    def access(self) -> SocketAccess:
        """To the files of Unix sockets."""
        return SocketAccess(self.unix_socket_mode, self.unix_socket_owner)

    def open_doors(self) -> Iterator[tuple[str, str, int]]:
        """Name, address and port of each open door."""
        if self.allow_http:
            yield "HTTP", self.http_address, self.http_port
        if self.allow_grpc:
            yield "GRPC", self.grpc_address, self.grpc_port
        if self.allow_metrics:
            beside = "127.0.0.1" if self.http_address.startswith(UNIX) else self.http_address
            yield "metrics", self.metrics_address or beside, self.metrics_port
        if self.allow_sagemaker:
            yield "SageMaker", self.sagemaker_address, self.sagemaker_port
        if self.allow_vertex_ai:
            yield "Vertex AI", self.vertex_ai_address, self.vertex_ai_port


@attrs.frozen(kw_only=True)
class TlsOptions:
    """The TLS options of one door, as given."""

    use: bool = False
    mutual: bool = False
    """Implies `use`."""
    server_cert: str = ""
    server_key: str = ""
    root_cert: str = ""


@attrs.frozen(kw_only=True)
class ServeSettings:
    """The whole. Made by `settle`, which checks what no single class can."""

    engine: EngineSettings
    doors: DoorSettings
    http: HttpSettings
    http_tls: TlsOptions
    grpc: GrpcSettings
    grpc_tls: TlsOptions
    metrics: MetricsSettings
    single_model: SingleModelSettings
    sagemaker: SageMakerSettings
    vertex_ai: VertexAiSettings
    log: LogSettings
    access_log: AccessSettings
    trace: TraceOptions
    """As given; `engine.trace` is what came of them."""


class BadSettings(Exception):
    """`complaints` says everything that is wrong, in the protocol's words where it has some."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__("\n".join(complaints))
        self.complaints = complaints


def settle(values: Values) -> ServeSettings:
    """Makes the settings from what was given, and adds to its warnings. Raises BadSettings with every complaint at
    once."""
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
    if "host_policy" in engine:
        engine["host_policy"] = _folded(engine["host_policy"])
    if "cache_config" in engine:
        engine["cache_config"] = _folded(engine["cache_config"])
    size = engine.get("response_cache_byte_size")
    if size:
        values.warnings.append(
            "'--response-cache-byte-size' has been deprecated! This will default to the 'local' cache implementation "
            "with the provided byte size for its config. Please use '--cache-config' instead. The equivalent "
            f"--cache-config CLI args would be: '--cache-config=local,size={size}'"
        )
    if not engine.get("model_repository"):
        complaints.append("--model-repository must be specified")
        engine["model_repository"] = ()
    complaints += _load_complaints(engine)
    trace = TraceOptions(**values.part("trace"))
    engine["trace"] = trace_settings(trace, complaints)
    metrics = made(MetricsSettings, values.part("metrics"))
    if metrics is not None:
        engine["latencies"] = metrics.latencies()
        values.warnings += metrics.warnings()
    http = values.part("http")
    if "restricted" in http:
        http["restricted"] = read_restrictions(http["restricted"], "http-restricted-api", complaints)
    grpc = values.part("grpc")
    if "restricted" in grpc:
        grpc["restricted"] = read_restrictions(
            grpc["restricted"], "grpc-restricted-protocol", complaints, prefix=GRPC_KEY_PREFIX
        )
    http_tls = TlsOptions(**values.part("http_tls"))
    grpc_tls = TlsOptions(**values.part("grpc_tls"))
    http["tls"] = _tls("http", http_tls, complaints)
    grpc["tls"] = _tls("grpc", grpc_tls, complaints)
    doors = DoorSettings(**values.part("doors"))
    complaints += _port_complaints(doors, values)
    complaints += _door_complaints(doors)
    complaints += cloud_complaints(doors, values)
    if doors.http_server == "hypercorn":
        http["server"] = "hypercorn"
    parts = {
        "engine": made(EngineSettings, engine),
        "http": made(HttpSettings, http),
        "grpc": made(GrpcSettings, grpc),
        "metrics": metrics,
        "single_model": made(SingleModelSettings, values.part("single_model")),
        "sagemaker": made(SageMakerSettings, values.part("sagemaker")),
        "vertex_ai": made(VertexAiSettings, values.part("vertex_ai")),
        "log": made(LogSettings, values.part("log")),
        "access_log": made(AccessSettings, values.part("access_log")),
    }
    if complaints:
        raise BadSettings(complaints)
    return ServeSettings(doors=doors, http_tls=http_tls, grpc_tls=grpc_tls, trace=trace, **parts)


def _folded(settings: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    folded: dict[str, dict[str, str]] = {}
    for backend, setting, value in settings:
        folded.setdefault(backend, {})[setting] = value
    return folded


def _load_complaints(engine: dict[str, Any]) -> list[str]:
    load = engine.get("load_model", [])
    if "*" in load and len(load) > 1:
        return ["Error: --load-model=* loads every model; it cannot stand beside another --load-model."]
    return []


def _port_complaints(doors: DoorSettings, values: Values) -> list[str]:
    """Only of doors that open: the port of a closed one, or of one at a path, may be anything."""
    fields = {
        "HTTP": "http_port",
        "GRPC": "grpc_port",
        "metrics": "metrics_port",
        "SageMaker": "sagemaker_port",
        "Vertex AI": "vertex_ai_port",
    }
    return [
        bad_option(
            fields[name].replace("_", "-"),
            values.sources[f"doors.{fields[name]}"],
            f"a port is 0 (any free one) to 65535, got {port}",
        )
        for name, address, port in doors.open_doors()
        if not address.startswith(UNIX) and not 0 <= port <= 65535
    ]


def _door_complaints(doors: DoorSettings) -> list[str]:
    opened = list(doors.open_doors())
    if not opened:
        return ["Error: every door is closed; allow at least one of HTTP, gRPC and metrics."]
    places = [(name, address, "" if address.startswith(UNIX) else f":{port}", port) for name, address, port in opened]
    return [
        f"The server cannot listen to {one} requests and {two} requests at the same address and port {address}{suffix}"
        for index, (one, address, suffix, port) in enumerate(places)
        for two, other_address, other_suffix, _ in places[index + 1 :]
        if (port or not suffix) and (address, suffix) == (other_address, other_suffix)
    ]


def _tls(door: str, options: TlsOptions, complaints: list[str]) -> TlsSettings | None:
    """What the door needs, or None for a plain one. The files are read when the door opens."""
    if not (options.use or options.mutual):
        return None
    wanted = ["server_cert", "server_key", *(["root_cert"] if options.mutual else [])]
    missing = [name for name in wanted if not getattr(options, name)]
    if missing:
        names = " and ".join(f"--{door}-{name.replace('_', '-')}" for name in missing)
        complaints.append(f"Error: TLS on the {door} door needs {names}.")
        return None
    return TlsSettings(
        server_cert=options.server_cert,
        server_key=options.server_key,
        root_cert=options.root_cert,
        mutual=options.mutual,
    )
