"""The conversations: HTTP and gRPC, each with fixed models, with loading and unloading, with the doors' options,
of answers in pieces, and of the metrics page."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import grpc

from tests.conformance.comparison import settled
from tests.conformance.door_probes import OPTIONS, grpc_door_probes, http_door_probes
from tests.conformance.grpc_exchange import GrpcProbe, grpc_answer
from tests.conformance.grpc_explicit_probes import grpc_explicit_probes
from tests.conformance.grpc_probes import grpc_probes
from tests.conformance.http_exchange import HttpProbe, http_answer
from tests.conformance.http_explicit_probes import http_explicit_probes
from tests.conformance.http_probes import http_probes
from tests.conformance.metrics_suite import METRICS_SUITES, MetricsSuite
from tests.conformance.shared_memory_probes import (
    KEY,
    OBJECT_BYTES,
    grpc_shared_memory_probes,
    http_shared_memory_probes,
)
from tests.conformance.streaming_memory_probes import grpc_streaming_memory_probes
from tests.conformance.streaming_probes import grpc_streaming_probes, http_streaming_probes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    shares_memory: bool = False
    """A shared memory object exists while it is asked; KEY in a question stands for its name."""

    @property
    def golden(self) -> Path:
        """Where the reference server's answers are recorded."""
        return HERE / "golden" / f"{self.name}.json"

    def ask(self, server: Server) -> dict[str, Any]:
        """Every answer of `server`, by the probe's name, settled for comparison."""
        if self.shares_memory:
            with shared_object() as key:
                answers = self._ask(server, [with_key(probe, key) for probe in self.probes()])
            return {name: replaced(answer, key, KEY) for name, answer in answers.items()}
        return self._ask(server, self.probes())

    def _ask(self, server: Server, probes: list[Any]) -> dict[str, Any]:
        if isinstance(probes[0], HttpProbe):
            answers = {probe.name: http_answer(server.http_port, probe) for probe in probes}
        else:
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                answers = {probe.name: grpc_answer(channel, probe) for probe in probes}
        return {name: settled(answer, str(server.repository)) for name, answer in answers.items()}


@contextmanager
def shared_object() -> Iterator[str]:
    """A POSIX shared memory object full of zeros: its name. Two runs at a time do not meet."""
    key = f"despina_conformance_{os.getpid()}"
    path = f"/dev/shm/{key}"
    with open(path, "wb") as file:
        file.truncate(OBJECT_BYTES)
    try:
        yield key
    finally:
        os.unlink(path)


def with_key(probe: Probe, key: str) -> Probe:
    """The same question about an object that there is."""
    if isinstance(probe, HttpProbe):
        return attrs.evolve(probe, body=probe.body and probe.body.replace(KEY.encode(), key.encode()))
    if probe.rpc == "SystemSharedMemoryRegister":
        assert not isinstance(probe.request, bytes | list)
        request = type(probe.request)()
        request.CopyFrom(probe.request)
        request.key = request.key.replace(KEY, key)
        return attrs.evolve(probe, request=request)
    return probe


def replaced(answer: Any, text: str, by: str) -> Any:
    """`answer` with a text replaced wherever it occurs in strings."""
    if isinstance(answer, dict):
        return {key: replaced(value, text, by) for key, value in answer.items()}
    if isinstance(answer, list):
        return [replaced(item, text, by) for item in answer]
    return answer.replace(text, by) if isinstance(answer, str) else answer


SUITES: tuple[Suite | MetricsSuite, ...] = (
    Suite("http", HERE / "models", (), http_probes),
    Suite("http_explicit", HERE / "models_explicit", EXPLICIT, http_explicit_probes),
    Suite("grpc", HERE / "models", (), grpc_probes),
    Suite("grpc_explicit", HERE / "models_explicit", EXPLICIT, grpc_explicit_probes),
    Suite("http_shared_memory", HERE / "models", (), http_shared_memory_probes, shares_memory=True),
    Suite("grpc_shared_memory", HERE / "models", (), grpc_shared_memory_probes, shares_memory=True),
    Suite("http_doors", HERE / "models", OPTIONS, http_door_probes),
    Suite("grpc_doors", HERE / "models", OPTIONS, grpc_door_probes),
    Suite("http_streaming", HERE / "models_streaming", (), http_streaming_probes),
    Suite("grpc_streaming", HERE / "models_streaming", (), grpc_streaming_probes),
    Suite("grpc_streaming_memory", HERE / "models_streaming", (), grpc_streaming_memory_probes, shares_memory=True),
    *METRICS_SUITES,
)
