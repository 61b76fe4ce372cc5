"""A scripted engine behind the HTTP door, and a raw client in front of it."""

import socket

import attrs
import numpy as np
import pytest
import trio
from despina.engine.observe.generation import Generation
from despina.engine.observe.trace_file import open_trace_file
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.engine.request.job import Job
from despina.engine.request.shared_memory import SharedMemory
from despina.frontends.http import HttpSettings, serve_http
from despina.frontends.http.usual import UsualInfer
from despina.schema.fault import InvalidArgument, NotFound, ShuttingDown
from despina.schema.inference import LATEST
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import (
    InferBatchStatistics,
    InferStatistics,
    ModelConfig,
    ModelMetadataResponse,
    ModelMetadataResponseTensorMetadata,
    ModelStatistics,
    RepositoryIndexResponseModelIndex,
    ServerMetadataResponse,
    StatisticDuration,
)


class FakeModel:
    """Adds and subtracts INT32 inputs, or returns its only input; at once, or when `release` is called."""

    def __init__(self, name, *, decoupled=False):
        self.name = name
        self.version = 1
        self.version_text = "1"
        self.config = ModelConfig(name=name, max_batch_size=8)
        self.decoupled = decoupled
        self.labels = {}
        self.is_held = False
        self.waiting = []
        self.cancelled = []
        self.fault = None
        self.refusal = None

    def submit(self, request, on_done, deadline=0.0):
        if self.refusal is not None:
            raise self.refusal
        job = Job(request, on_done)
        job.ledger = self
        if self.is_held:
            self.waiting.append(job)
        else:
            self._finish(job)
        return job

    def leave(self, job):
        job.on_done = None
        self.waiting.remove(job)
        self.cancelled.append(job)

    def release(self):
        while self.waiting:
            self._finish(self.waiting.pop(0))

    def _finish(self, job):
        inputs = list(job.request.inputs.values())
        if self.fault is not None:
            job.fault = self.fault
        elif len(inputs) == 2:
            a, b = (tensor.numpy() for tensor in inputs)
            job.respond([Tensor.of("OUTPUT0", a + b), Tensor.of("OUTPUT1", a - b)])
        else:
            job.respond([Tensor("OUTPUT0", inputs[0].datatype, inputs[0].shape, inputs[0].memory())])
        on_done = job.on_done
        job.on_done = None
        on_done(job)


class FakeEngine:
    """The methods of an engine that doors call, over a dictionary of models."""

    inline = None

    def __init__(self):
        self.models = {name: FakeModel(name) for name in ("addsub", "identity")}
        self.models["stream"] = FakeModel("stream", decoupled=True)
        self.shared_memory = SharedMemory()
        self.generation = Generation()
        self.tracer = Tracer(TraceSettings(), self.models.__contains__, open_trace_file, self.generation)
        self.is_stopping = False
        self.ready = True
        self.commands = []
        self.load_gate = trio.Event()
        self.load_gate.set()
        self.load_fault = None

    def is_live(self):
        if self.is_stopping:
            raise ShuttingDown("Server exiting")
        return True

    def is_ready(self):
        self.is_live()
        return self.ready

    def metadata(self):
        return ServerMetadataResponse(name="triton", version="2.0", extensions=["statistics", "logging"])

    def model(self, name, version=LATEST):
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        if version not in (LATEST, 1):
            raise NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return model

    def model_metadata(self, name, version=LATEST):
        self.model(name, version)
        tensor = ModelMetadataResponseTensorMetadata(name="INPUT0", datatype="INT32", shape=[-1, 16])
        return ModelMetadataResponse(name=name, versions=["1"], platform="onnxruntime_onnx", inputs=[tensor])

    def is_model_ready(self, name, version=LATEST):
        return self.ready and name in self.models

    def statistics(self, name="", version=LATEST):
        if name and name not in self.models:
            raise InvalidArgument(f"requested model '{name}' is not available")
        spent = StatisticDuration(count=3, ns=900)
        return [
            ModelStatistics(
                name=name or "addsub",
                version="1",
                last_inference=7,
                inference_count=3,
                execution_count=2,
                inference_stats=InferStatistics(success=spent),
                batch_stats=[InferBatchStatistics(batch_size=1, compute_infer=spent)],
            )
        ]

    async def index(self, ready_only=False):
        entries = [RepositoryIndexResponseModelIndex(name="addsub", version="1", state="READY")]
        if not ready_only:
            entries.append(RepositoryIndexResponseModelIndex(name="never"))
            gone = RepositoryIndexResponseModelIndex(name="was", version="1", state="UNAVAILABLE", reason="unloaded")
            entries.append(gone)
        return entries

    async def load(self, name, *, config=None, files=None):
        await self.load_gate.wait()
        if self.load_fault is not None:
            raise self.load_fault
        self.commands.append(("load", name, config, files))

    async def unload(self, name, *, unload_dependents=False):
        self.commands.append(("unload", name, unload_dependents))


@attrs.frozen
class Reply:
    line: str
    status: int
    headers: dict
    body: bytes


class Client:
    """A raw connection: bytes out, replies in."""

    def __init__(self, stream):
        self.stream = stream
        self.received = b""

    async def send(self, data):
        await self.stream.send_all(data)

    async def reply(self, *, has_body=True):
        """The next reply, interim ones included. Fails if the connection ends first."""
        while b"\r\n\r\n" not in self.received:
            await self._more()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        size = int(headers.get("content-length", 0)) if has_body else 0
        while len(rest) < size:
            await self._more()
            rest = self.received.partition(b"\r\n\r\n")[2]
        self.received = rest[size:]
        return Reply(line, int(line.split()[1]), headers, rest[:size])

    async def ask(self, data):
        await self.send(data)
        return await self.reply()

    async def ended(self):
        """Waits for the end of the server's stream; returns what came before it."""
        rest = self.received
        try:
            while data := await self.stream.receive_some():
                rest += data
        except trio.BrokenResourceError:
            pass
        return rest

    async def _more(self):
        data = await self.stream.receive_some()
        assert data, f"the connection ended after {self.received!r}"
        self.received += data

    def reset(self):
        """Leaves without a word."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.socket.close()


class Door:
    """A running HTTP server over a FakeEngine."""

    def __init__(self, engine, server, port, scope):
        self.engine = engine
        self.scope = scope
        self.server = server
        self.port = port
        self.clients = []

    @property
    def listener(self):
        return self.server._listener

    async def connect(self):
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, data):
        """The reply to `data` on a connection of its own."""
        return await (await self.connect()).ask(data)

    async def until(self, condition):
        """Waits until `condition()` holds."""
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110 (the conditions are other code's state, without an event)
                await trio.sleep(0.001)


@pytest.fixture
async def open_door(nursery):
    """Starts servers: `door = await open_door(limit=value, ...)`."""

    async def start(**limits):
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        engine = FakeEngine()
        port = sock.getsockname()[1]
        scope = trio.CancelScope()

        async def serve(task_status):
            with scope:
                await serve_http(engine, HttpSettings(**limits), sockets=[sock], task_status=task_status)

        return Door(engine, await nursery.start(serve), port, scope)

    return start


@pytest.fixture
async def door(open_door):
    """A server with the default limits."""
    return await open_door()


@pytest.fixture
def infer_bytes():
    """Builds `POST .../addsub/infer` with two binary inputs, as bytes: `infer_bytes(extra_header_lines)`."""

    def build(extra=b"", *, path=b"/v2/models/addsub/infer", version=b"1.1", rows=1):
        a = np.arange(rows * 16, dtype=np.int32)
        size = a.nbytes
        head = (
            b'{"inputs":[{"name":"INPUT0","shape":[%d,16],"datatype":"INT32","parameters":{"binary_data_size":%d}},'
            b'{"name":"INPUT1","shape":[%d,16],"datatype":"INT32","parameters":{"binary_data_size":%d}}],'
            b'"parameters":{"binary_data_output":true}}'
        ) % (rows, size, rows, size)
        body = head + a.tobytes() + a.tobytes()
        return (
            b"POST %b HTTP/%b\r\nHost: h\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n%b\r\n%b"
            % (
                path,
                version,
                len(head),
                len(body),
                extra,
                body,
            )
        )

    return build


@pytest.fixture
def taken(monkeypatch):
    """Whether each request offered to the short way was taken there, in order."""
    verdicts = []
    submit = UsualInfer.submit

    def watched(self, data):
        verdicts.append(submit(self, data))
        return verdicts[-1]

    monkeypatch.setattr(UsualInfer, "submit", watched)
    return verdicts


@pytest.fixture
def made(monkeypatch):
    """What was prepared for requests that may repeat, one after the other."""
    prepared = []
    settle = UsualInfer.settle

    def watched(self):
        prepared.append(self.model.name)
        settle(self)

    monkeypatch.setattr(UsualInfer, "settle", watched)
    return prepared
