"""What both doors say of readiness: which part is not ready, and a server that is about to stop."""

import json

import pytest
import trio
from despina.schema.wire import codec
from despina.schema.wire.generated import inference as pb
from despina.schema.wire.generated.grpc.health import v1 as health

from tests.doors import both_doors
from tests.fakes import FakeBackend, write_model
from tests.unit.http.conftest import Client

SERVING, NOT_SERVING = (
    health.HealthCheckResponseServingStatus.SERVING,
    health.HealthCheckResponseServingStatus.NOT_SERVING,
)


@pytest.fixture
def repository(tmp_path):
    write_model(tmp_path, "good")
    write_model(tmp_path, "bad")
    return tmp_path


@pytest.fixture
def backend():
    backend = FakeBackend()
    backend.open_errors["bad", 1] = RuntimeError("no such weights")
    return backend


async def told(doors):
    """Status and body of the HTTP door's answer, gRPC's readiness, and its health."""
    async with await trio.open_tcp_stream("127.0.0.1", doors.http_port) as stream:
        reply = await Client(stream).ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\n\r\n")
    caller = await doors.grpc_caller()
    answer, _ = await caller.ask("/inference.GRPCInferenceService/ServerReady", b"")
    checked, _ = await caller.ask("/grpc.health.v1.Health/Check", b"")
    await caller.stream.aclose()
    ready = codec.decode(pb.ServerReadyResponse, answer[5:]).ready
    return reply.status, reply.body, ready, codec.decode(health.HealthCheckResponse, checked[5:]).status


@pytest.mark.parametrize(("strict", "status"), [(True, 400), (False, 200)])
async def test_the_part_that_is_not_ready(repository, backend, strict, status):
    """Goal: the model and its reason, also where the server counts as ready without it; the protocol's status."""
    options = {"exit_on_error": False, "strict_readiness": strict, "backends": {"fake": backend}}
    async with both_doors(repository, **options) as doors:
        found, body, ready, checked = await told(doors)
    assert (found, ready, checked) == (status, not strict, NOT_SERVING if strict else SERVING)
    said = json.loads(body)
    assert said["ready"] is not strict
    (reason,) = said["not_ready"]
    assert reason.startswith("model 'bad' version 1 is UNAVAILABLE: ")
    assert "no such weights" in reason


@pytest.mark.parametrize("strict", [True, False])
async def test_a_server_that_will_stop(tmp_path, strict):
    """Goal: live and serving, but not ready, on both doors and whatever else may be ready; before, as in the protocol,
    ready without a word."""
    write_model(tmp_path, "good")
    async with both_doors(tmp_path, backends={"fake": FakeBackend()}, strict_readiness=strict) as doors:
        assert await told(doors) == (200, b"", True, SERVING)
        doors.engine.announce_end()
        status, body, ready, checked = await told(doors)
        assert (status, ready, checked) == (400, False, NOT_SERVING)
        assert json.loads(body) == {"ready": False, "not_ready": ["the server is draining: it will stop"]}
        assert doors.engine.is_live()
        assert doors.engine.is_model_ready("good")
