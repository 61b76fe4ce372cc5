"""The four conversations: HTTP and gRPC, each with fixed models and with loading and unloading."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import grpc

from tests.conformance.comparison import settled
from tests.conformance.grpc_exchange import GrpcProbe, grpc_answer
from tests.conformance.grpc_explicit_probes import grpc_explicit_probes
from tests.conformance.grpc_probes import grpc_probes
from tests.conformance.http_exchange import HttpProbe, http_answer
from tests.conformance.http_explicit_probes import http_explicit_probes
from tests.conformance.http_probes import http_probes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.servers import Server

HERE = Path(__file__).resolve().parent
EXPLICIT = ("--model-control-mode=explicit",)
Probe: TypeAlias = HttpProbe | GrpcProbe


@attrs.frozen
class Suite:
    """A conversation: which repository, which options of the server, which probes in which order."""

    name: str
    models: Path
    options: tuple[str, ...]
    probes: Callable[[], list[Any]]

    @property
    def golden(self) -> Path:
        """Where the reference server's answers are recorded."""
        return HERE / "golden" / f"{self.name}.json"

    def ask(self, server: Server) -> dict[str, Any]:
        """Every answer of `server`, by the probe's name, settled for comparison."""
        probes = self.probes()
        if isinstance(probes[0], HttpProbe):
            answers = {probe.name: http_answer(server.http_port, probe) for probe in probes}
        else:
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                answers = {probe.name: grpc_answer(channel, probe) for probe in probes}
        return {name: settled(answer, str(server.repository)) for name, answer in answers.items()}


SUITES = (
    Suite("http", HERE / "models", (), http_probes),
    Suite("http_explicit", HERE / "models_explicit", EXPLICIT, http_explicit_probes),
    Suite("grpc", HERE / "models", (), grpc_probes),
    Suite("grpc_explicit", HERE / "models_explicit", EXPLICIT, grpc_explicit_probes),
)
