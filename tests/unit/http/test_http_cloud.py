"""The doors of hosted services over scripted engines: clients that leave, waits, full doors; and over a real engine
where models load on request or answer in pieces."""

import json
import socket
from pathlib import Path

import despina
import numpy as np
import pytest
import trio
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.frontends.http import HttpSettings
from despina.frontends.http.cloud import many_models
from despina.frontends.http.cloud.archives import look_into
from despina.frontends.http.cloud.infer import read_header_length
from despina.frontends.http.cloud.sagemaker import serve_sagemaker
from despina.frontends.http.cloud.settings import SageMakerSettings, VertexAiSettings
from despina.frontends.http.cloud.vertex_ai import serve_vertex_ai
from despina.schema.fault import Internal, InvalidArgument, QueueFull
from despina.schema.wire.generated import inference as pb

from tests.fake_engine import FakeEngine
from tests.in_process import SETTING
from tests.unit.http.conftest import Door

MODELS = Path(__file__).resolve().parents[2] / "conformance"
INPUT = {"name": "IN", "shape": [1, 2], "datatype": "INT32", "data": [1, 2]}
BODY = json.dumps({"inputs": [INPUT]}).encode()
VERTEX = VertexAiSettings(predict_route="/predict/v[12]", health_route="/health", default_model="addsub")


class Engine(FakeEngine):
    """With repositories that can be registered, and a story of its models' states: one step for each look at it."""

    def __init__(self):
        super().__init__()
        self.registered = {}
        self.states = ["UNAVAILABLE"]
        self.looks = 0

    async def register_model_repository(self, path, name_mapping=None):
        await trio.lowlevel.checkpoint()
        self.registered[path] = dict(name_mapping)

    def unregister_model_repository(self, path):
        del self.registered[path]

    async def index(self, ready_only=False):
        self.looks += 1
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        rows = [pb.RepositoryIndexResponseModelIndex(name=name, version="1", state=state) for name in self.models]
        return [*await super().index(ready_only), *([] if ready_only else rows)]


@pytest.fixture
async def open_cloud(nursery):
    """`await open_cloud(serve, engine, settings, **limits)`: a Door."""

    async def start(serve, engine, settings, **limits):
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        scope = trio.CancelScope()

        async def run(task_status):
            with scope:
                await serve(engine, HttpSettings(**limits), settings, sockets=[sock], task_status=task_status)

        return Door(engine, await nursery.start(run), sock.getsockname()[1], scope)

    return start


@pytest.fixture
def archive(tmp_path):
    """An unpacked archive with one model, and its path as JSON has it."""
    (tmp_path / "archive" / "m").mkdir(parents=True)
    return str(tmp_path / "archive")


def post(path, body=b"", fields=b""):
    return b"POST %b HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(body), body)


def loading(name, archive, fields=b""):
    return post(b"/models", json.dumps({"model_name": name, "url": archive}).encode(), fields)


def asking(method, path):
    return b"%b %b HTTP/1.1\r\nHost: h\r\n\r\n" % (method, path)


async def many(open_cloud, archive, name="held"):
    """A SageMaker door that has loaded `name` of the engine's models."""
    door = await open_cloud(serve_sagemaker, Engine(), SageMakerSettings())
    assert (await door.ask(loading(name, archive))).status == 200
    return door


# --- Vertex AI


async def test_routes_may_be_patterns(open_cloud):
    """Goal: a route matches whole paths, as a regular expression or as it is written; others are 400."""
    door = await open_cloud(serve_vertex_ai, FakeEngine(), VERTEX)
    for path, status in ((b"/predict/v1", 200), (b"/predict/v2", 200), (b"/predict/v[12]", 200), (b"/predict/v3", 400)):
        assert (await door.ask(post(path, BODY_OF_TWO))).status == status
    assert (await door.ask(asking(b"GET", b"/healthy"))).status == 400


BODY_OF_TWO = json.dumps({"inputs": [INPUT | {"name": "INPUT0"}, INPUT | {"name": "INPUT1"}]}).encode()


async def test_health_follows_the_engine(open_cloud):
    """Goal: 400 while something is not ready, 503 once the server stops."""
    engine = FakeEngine()
    door = await open_cloud(serve_vertex_ai, engine, VERTEX)
    health = asking(b"GET", b"/health")
    assert (await door.ask(health)).status == 200
    engine.ready = False
    assert (await door.ask(health)).status == 400
    engine.is_stopping = True
    assert (await door.ask(health)).status == 503


async def test_a_full_door_lets_health_in(open_cloud):
    """Goal: where all connections are at work, the service still hears that the server is well, and nobody else gets
    in."""
    engine = FakeEngine()
    settings = VertexAiSettings(predict_route="/predict", health_route="/health", default_model="")
    door = await open_cloud(serve_vertex_ai, engine, settings, connection_count_max=1)
    client = await door.connect()
    await client.send(post(b"/predict", BODY, b"X-Vertex-Ai-Triton-Redirect: v2/models/held/infer\r\n"))
    await engine.models["held"].submitted.wait()
    assert (await door.ask(asking(b"GET", b"/health"))).status == 200
    assert (await door.ask(post(b"/predict", BODY))).status == 503
    engine.models["held"].release()
    assert (await client.reply()).status == 200


async def test_predictions_of_clients_that_left_are_cancelled(open_cloud):
    engine = FakeEngine()
    door = await open_cloud(serve_vertex_ai, engine, VERTEX)
    client = await door.connect()
    await client.send(post(b"/predict/v1", BODY, b"X-Vertex-Ai-Triton-Redirect: v2/models/held/infer\r\n"))
    await engine.models["held"].submitted.wait()
    client.reset()
    await door.until(lambda: engine.models["held"].cancelled)


async def test_metrics_without_the_page(open_cloud):
    """Goal: where metrics are not allowed, a redirection there is 400."""
    door = await open_cloud(serve_vertex_ai, FakeEngine(), VERTEX)
    assert (await door.ask(post(b"/predict/v1", b"", b"X-Vertex-Ai-Triton-Redirect: metrics\r\n"))).status == 400


async def test_a_large_head_keeps_its_own_length(open_cloud):
    """Goal: of two requests with the same head but for the content type, of which the first is read in a thread, each
    is read by its own length. Method: JSON beyond what is read at once; the second comes while it is."""
    door = await open_cloud(serve_vertex_ai, FakeEngine(), VERTEX)
    values = np.arange(100_000, dtype=np.int32)
    shape = [1, len(values)]
    first = {"name": "INPUT0", "shape": shape, "datatype": "INT32", "data": values.tolist()}
    second = {"name": "INPUT1", "shape": shape, "datatype": "INT32", "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [first, second], "outputs": [{"name": "OUTPUT1"}]}).encode()
    form = b"Content-Type: application/vnd.vertex-ai-triton.binary+json;json-header-size=%d\r\n"
    clients = [await door.connect() for _ in range(2)]
    body = head + values.tobytes()
    await clients[0].send(post(b"/predict/v1", body, form % len(head)))
    await clients[1].send(post(b"/predict/v1", body, form % 10))
    assert (await clients[0].reply()).status == 200
    assert (await clients[1].reply()).status == 500


async def test_a_default_model_may_load_on_request(open_cloud):
    """Goal: the first prediction loads it."""
    options = {"load_on_request": True, "model_control_mode": "explicit", "backend_config": SETTING}
    async with despina.open_engine(MODELS / "models", **options) as engine:
        settings = VertexAiSettings(predict_route="/p", health_route="/h", default_model="simple")
        door = await open_cloud(serve_vertex_ai, engine, settings)
        row = {"shape": [1, 16], "datatype": "INT32", "data": [1] * 16}
        body = json.dumps({"inputs": [{"name": "INPUT0", **row}, {"name": "INPUT1", **row}]}).encode()
        reply = await door.ask(post(b"/p", body))
        assert (reply.status, json.loads(reply.body)["outputs"][0]["data"]) == (200, [2] * 16)
        with pytest.raises(InvalidArgument, match="Expect the default model 'nope' is loaded"):
            await serve_vertex_ai(engine, HttpSettings(), VertexAiSettings(default_model="nope"), sockets=[])
        door.scope.cancel()


# --- SageMaker


@pytest.mark.parametrize(("mode", "statuses"), [("ready", [200, 400, 503]), ("live", [200, 200, 503])])
async def test_ping(open_cloud, mode, statuses):
    engine = Engine()
    door = await open_cloud(serve_sagemaker, engine, SageMakerSettings(ping_mode=mode))
    ping = asking(b"GET", b"/ping")
    seen = [(await door.ask(ping)).status]
    engine.ready = False
    seen.append((await door.ask(ping)).status)
    engine.is_stopping = True
    assert [*seen, (await door.ask(ping)).status] == statuses


async def test_invocations_may_generate(open_cloud):
    """Goal: with another inference type, /invocations is generate, or a stream of events as they come."""
    options = {"model_control_mode": "explicit", "load_model": ["repeat"], "backend_config": SETTING}
    async with despina.open_engine(MODELS / "models_streaming", **options) as engine:
        body = b'{"IN":[4,2]}'
        for kind, status in (("generate", 200), ("generate_stream", 200), ("infer", 501)):
            settings = SageMakerSettings(default_model="repeat", inference_type=kind)
            door = await open_cloud(serve_sagemaker, engine, settings)
            client = await door.connect()
            await client.send(b"POST /invocations HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            answer = await client.ended()
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert answer.count(b"data: {") == (2 if kind == "generate_stream" else 0)
            door.scope.cancel()


async def test_a_load_goes_on_when_its_client_leaves(open_cloud, archive):
    """Goal: SageMaker, which asks again, finds the model loaded."""
    engine = Engine()
    engine.load_gate = trio.Event()
    door = await open_cloud(serve_sagemaker, engine, SageMakerSettings())
    client = await door.connect()
    await client.send(loading("held", archive))
    await door.until(lambda: engine.commands)
    client.reset()
    assert (await door.ask(asking(b"GET", b"/models/held"))).status == 404
    engine.load_gate.set()
    with trio.fail_after(5):
        while (await door.ask(asking(b"GET", b"/models/held"))).status != 200:
            pass
    assert engine.registered == {archive: {"held": "m"}}


async def test_one_name_is_loaded_once_at_a_time(open_cloud, archive, tmp_path):
    """Goal: a second load of the name, as another target, is 409 and leaves nothing behind."""
    engine = Engine()
    engine.load_gate = trio.Event()
    door = await open_cloud(serve_sagemaker, engine, SageMakerSettings())
    client = await door.connect()
    await client.send(loading("held", archive, b"X-Amzn-SageMaker-Target-Model: a\r\n"))
    await door.until(lambda: engine.commands)
    (tmp_path / "other" / "m").mkdir(parents=True)
    again = loading("held", str(tmp_path / "other"), b"X-Amzn-SageMaker-Target-Model: b\r\n")
    assert (await door.ask(again)).status == 409
    assert list(engine.registered) == [archive]
    engine.load_gate.set()
    assert (await client.reply()).status == 200
    assert (await door.ask(again)).status == 409


async def test_a_load_that_is_cut_off_leaves_no_repository(open_cloud, archive):
    """Goal: a door that is cancelled while a model loads has registered nothing."""
    engine = Engine()
    engine.load_gate = trio.Event()
    door = await open_cloud(serve_sagemaker, engine, SageMakerSettings())
    client = await door.connect()
    await client.send(loading("held", archive))
    await door.until(lambda: engine.commands)
    door.scope.cancel()
    await door.until(lambda: not engine.registered)


@pytest.mark.parametrize(("words", "status"), [("CUDA out of memory", 507), ("no such file", 400)])
async def test_a_load_that_fails_may_be_tried_again(open_cloud, archive, words, status):
    engine = Engine()
    engine.load_fault = Internal(words)
    door = await open_cloud(serve_sagemaker, engine, SageMakerSettings())
    for _ in range(2):
        reply = await door.ask(loading("held", archive))
        assert (reply.status, json.loads(reply.body)) == (status, {"error": words})
        assert not engine.registered
    engine.load_fault = None
    assert (await door.ask(loading("held", archive))).status == 200


async def test_unload_waits_until_the_model_has_gone(open_cloud, archive):
    """Goal: SageMaker may count on the memory when it has its answer; meanwhile a second one is 404."""
    door = await many(open_cloud, archive)
    engine = door.engine
    engine.states = ["UNLOADING"] * 5 + ["UNAVAILABLE"]
    client = await door.connect()
    await client.send(asking(b"DELETE", b"/models/held"))
    await door.until(lambda: engine.looks > 2)
    assert (await door.ask(asking(b"DELETE", b"/models/held"))).status == 404
    assert engine.registered
    assert (await client.reply()).status == 200
    assert engine.commands[-1] == ("unload", "held", True)
    assert engine.looks == 6
    assert not engine.registered
    assert (await door.ask(asking(b"GET", b"/models/held"))).status == 404


async def test_unload_does_not_wait_for_ever(open_cloud, archive, monkeypatch):
    """Goal: SageMaker gives up after 360 seconds; it is answered before. Method: a shorter limit."""
    assert 300 < many_models.UNLOAD_SECONDS_MAX < 360
    monkeypatch.setattr(many_models, "UNLOAD_SECONDS_MAX", 0.2)
    door = await many(open_cloud, archive)
    door.engine.states = ["UNLOADING"]
    assert (await door.ask(asking(b"DELETE", b"/models/held"))).status == 200


async def test_invocations_of_clients_that_left_are_cancelled(open_cloud, archive):
    door = await many(open_cloud, archive)
    client = await door.connect()
    await client.send(post(b"/models/held/invoke", BODY))
    await door.engine.models["held"].submitted.wait()
    client.reset()
    await door.until(lambda: door.engine.models["held"].cancelled)


async def test_whatever_fails_in_an_invocation_is_400(open_cloud, archive):
    """Goal: as in the reference; but for want of memory, and for what the door itself refuses."""
    door = await many(open_cloud, archive, "identity")
    model = door.engine.models["identity"]
    for fault, status in ((QueueFull("full"), 400), (Internal("broken"), 400), (Internal("CUDA out of memory"), 507)):
        model.fault = fault
        reply = await door.ask(post(b"/models/identity/invoke", BODY))
        assert (reply.status, json.loads(reply.body)) == (status, {"error": fault.message})
    model.refusal = RuntimeError("a mistake of ours")
    assert (await door.ask(post(b"/models/identity/invoke", BODY))).status == 400


async def test_invocations_are_traced(open_cloud, archive):
    """Goal: traces see them, answered and failed ones."""
    finished = []

    class Sink:
        def take(self, trace):
            finished.append([note[0] for note in trace.notes])

        def retire(self, setting): ...

        def close(self): ...

    door = await many(open_cloud, archive, "identity")
    engine = door.engine
    settings = TraceSettings(level=["TIMESTAMPS"], rate=1, file="x")
    engine.tracer = Tracer(settings, engine.models.__contains__, lambda _: Sink(), engine.generation)
    door = await open_cloud(serve_sagemaker, engine, SageMakerSettings(default_model="identity"))
    assert (await door.ask(loading("identity", archive))).status == 200
    for fault, status in ((None, 200), (Internal("broken"), 400)):
        engine.models["identity"].fault = fault
        assert (await door.ask(post(b"/models/identity/invoke", BODY))).status == status
    engine.tracer.close()
    assert [{"HTTP_SEND_START", "HTTP_SEND_END"} <= set(notes) for notes in finished] == [True, True]


async def test_restrictions_hold(open_cloud, archive):
    """Goal: restricted APIs ask for their key here, too, before anything is read."""
    key = (b"X-Key", b"v")
    restricted = {"model-repository": key, "inference": key}
    door = await open_cloud(
        serve_sagemaker, Engine(), SageMakerSettings(default_model="identity"), restricted=restricted
    )
    asked = [
        loading("identity", archive),
        asking(b"GET", b"/models"),
        asking(b"GET", b"/models/identity"),
        post(b"/models/identity/invoke", BODY),
        post(b"/invocations", BODY),
        asking(b"DELETE", b"/models/identity"),
    ]
    for data in asked:
        assert (await door.ask(data)).status == 403
    for data in asked:
        assert (await door.ask(data.replace(b"Host: h", b"X-Key: v"))).status == 200
    assert (await door.ask(asking(b"GET", b"/ping"))).status == 200


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_whoever_speaks_http(open_cloud, archive, server):
    """Goal: both doors are the same behind either program."""
    door = await open_cloud(serve_sagemaker, Engine(), SageMakerSettings(default_model="identity"), server=server)
    asked = [
        asking(b"GET", b"/ping"),
        post(b"/invocations", BODY),
        loading("identity", archive),
        post(b"/models/identity/invoke", BODY),
        asking(b"DELETE", b"/models/identity"),
    ]
    for data in asked:
        assert (await door.ask(data)).status == 200
    assert (await door.ask(asking(b"GET", b"/v2"))).status == 400
    door = await open_cloud(serve_vertex_ai, FakeEngine(), VERTEX, server=server)
    assert (await door.ask(asking(b"GET", b"/health"))).status == 200
    assert (await door.ask(post(b"/predict/v1", BODY_OF_TWO))).status == 200
    assert (await door.ask(post(b"/predict/v1", b"", b"X-Vertex-Ai-Triton-Redirect: v2\r\n"))).status == 200


# --- Parts


@pytest.mark.parametrize(
    ("text", "length"),
    [("", None), ("json", None), ("f=7", 7), ("f=0", 0), ("f= 10;x", 10), ("f=+9", 9), ("f=07", 7)],
)
def test_header_lengths(text, length):
    assert read_header_length(text.encode(), b"f=", 10) == length


@pytest.mark.parametrize("text", ["f=11", "f=-1", "f=", "f=x", "f=\xff", "x f=7", f"f={'9' * 5000}"])
def test_header_lengths_that_are_none(text):
    with pytest.raises(InvalidArgument):
        read_header_length(text.encode("latin-1"), b"f=", 10)


def test_archives(tmp_path, caplog):
    """Goal: the folder itself, the ensemble, the only model; of several the last, and the log says so."""

    def add(path, config=None):
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (folder / "config.pbtxt").write_text(config)

    def found(path):
        archive = look_into(str(tmp_path / path))
        return archive.repository.removeprefix(str(tmp_path)), archive.folder

    add("flat/model", "")
    assert found("flat/model") == found("flat/model/") == found("flat/x/../model") == ("/flat", "model")
    add("one/model/m", 'backend: "python"')
    (tmp_path / "one/model/README").write_text("")
    (tmp_path / "one/model/.git").mkdir()
    assert found("one/model") == ("/one/model", "m")
    add("parts/z")
    add("parts/e", 'name: "x"\nplatform : "ensemble"')
    assert found("parts") == ("/parts", "e")
    assert not caplog.records
    add("several/a")
    add("several/b")
    assert found("several") == ("/several", "b")
    assert "several models and no ensemble, b is served: a b" in caplog.text
