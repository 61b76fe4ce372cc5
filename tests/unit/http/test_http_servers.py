"""The same routes for other clients: the protocol's own, and HTTP/2 and HTTP/1.1 through hypercorn."""

import contextlib
import socket
from functools import partial

import h2.config
import h2.connection
import h2.events
import h2.settings
import numpy as np
import pytest
import trio
import trio.testing
import tritonclient.http as triton
from despina.frontends.http import AsgiApplication, HttpSettings
from tritonclient.utils import InferenceServerException


def use_client(port):
    """What a user of tritonclient does; runs in a thread."""
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("addsub")
    assert client.get_server_metadata()["name"] == "triton"
    assert client.get_model_metadata("addsub", "1")["platform"] == "onnxruntime_onnx"
    assert client.get_model_config("addsub")["max_batch_size"] == 8
    assert client.get_inference_statistics()["model_stats"][0]["inference_count"] == 3
    assert len(client.get_model_repository_index()) == 3
    client.load_model("m", config="{}")
    client.unload_model("m")
    for rows in (1, 1000, 100_000):
        a = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
        inputs = [triton.InferInput(name, a.shape, "INT32") for name in ("INPUT0", "INPUT1")]
        for tensor in inputs:
            tensor.set_data_from_numpy(a)
        handles = [client.async_infer("addsub", inputs) for _ in range(4)]
        for result in [handle.get_result() for handle in handles]:
            assert (result.as_numpy("OUTPUT0") == a + a).all()
            assert (result.as_numpy("OUTPUT1") == 0).all()
    with pytest.raises(InferenceServerException, match="unknown model: 'no' is not found") as caught:
        client.infer("no", inputs)
    assert caught.value.status() == "404"
    client.close()


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_tritonclient(open_door, server):
    """The real client against both programs that can speak HTTP/1.1."""
    door = await open_door(server=server)
    await trio.to_thread.run_sync(use_client, door.port)
    await door.server.drain(trio.current_time() + 5)


class Http2:
    """A small HTTP/2 client with prior knowledge."""

    def __init__(self, stream):
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()

    async def flush(self):
        if data := self.h2.data_to_send():
            await self.stream.send_all(data)

    async def start(self, method, path, body=b"", headers=()):
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path)]
        self.h2.send_headers(stream_id, [*pseudo, *headers], end_stream=not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=True)
        await self.flush()
        return stream_id

    async def replies(self, count):
        """{stream id: [status, headers, body]} once `count` streams have ended."""
        found, ended = {}, 0
        while ended < count:
            data = await self.stream.receive_some()
            assert data, "the connection ended"
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    found[event.stream_id] = [dict(event.headers), b""]
                elif isinstance(event, h2.events.DataReceived):
                    found[event.stream_id][1] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended += 1
            await self.flush()
        return found


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_http_2_with_prior_knowledge(open_door, infer_bytes, server):
    """Many streams on the HTTP port: inference, errors and no headers beside the protocol's."""
    door = await open_door(server=server)
    client = Http2(await trio.open_tcp_stream("127.0.0.1", door.port))
    request = infer_bytes()
    head, _, body = request.partition(b"\r\n\r\n")
    size = head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0].decode()
    live = await client.start("GET", "/v2/health/live?x")
    missing = await client.start("GET", "/v2/models/a%62")
    infer = await client.start("POST", "/v2/models/addsub/infer", body, [("inference-header-content-length", size)])
    replies = await client.replies(3)
    assert replies[live] == [{":status": "200", "content-type": "text/plain", "content-length": "0"}, b""]
    assert b"'a%62' is not found" in replies[missing][1]
    assert replies[missing][0][":status"] == "404"
    assert replies[infer][0]["content-type"] == "application/octet-stream"
    assert len(replies[infer][1]) == int(replies[infer][0]["inference-header-content-length"]) + 128
    with trio.fail_after(5):
        await door.server.drain(trio.current_time() + 4)


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_http_2_client_that_leaves_or_resets_cancels(open_door, infer_bytes, server):
    """RST_STREAM cancels one job, the end of the connection the others."""
    door = await open_door(server=server)
    model = door.engine.models["addsub"]
    model.is_held = True
    client = Http2(await trio.open_tcp_stream("127.0.0.1", door.port))
    head, _, body = infer_bytes().partition(b"\r\n\r\n")
    size = head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0].decode()
    start = partial(client.start, "POST", "/v2/models/addsub/infer", body, [("inference-header-content-length", size)])
    first, _ = await start(), await start()
    await door.until(lambda: len(model.waiting) == 2)
    client.h2.reset_stream(first)
    await client.flush()
    await door.until(lambda: len(model.cancelled) == 1)
    await client.stream.aclose()
    await door.until(lambda: len(model.cancelled) == 2)


@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_nothing_is_left_of_http_2_clients_that_left(open_door, infer_bytes, server):
    """Idle, waiting for an answer, or with an answer that they did not wait for: no task stays, long before a timer."""
    door = await open_door(server=server)
    model = door.engine.models["addsub"]
    head, _, body = infer_bytes().partition(b"\r\n\r\n")
    size = head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0].decode()
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    for kind in ("idle", "waiting", "hasty"):
        client = Http2(await trio.open_tcp_stream("127.0.0.1", door.port))
        model.is_held = kind == "waiting"
        await client.start("POST", "/v2/models/addsub/infer", body, [("inference-header-content-length", size)])
        if kind == "idle":
            await client.replies(1)
        elif kind == "waiting":
            await door.until(lambda: model.waiting)
        await client.stream.aclose()
        await door.until(lambda: trio.lowlevel.current_statistics().tasks_living == before)
    assert model.cancelled


@pytest.mark.parametrize("how", ["window", "socket"])
@pytest.mark.parametrize("server", ["native", "hypercorn"])
async def test_http_2_clients_that_take_nothing_are_cut_off(open_door, server, how):
    """A shut window, and a socket that nobody reads: after the write stall no task stays."""
    door = await open_door(server=server, write_stall_timeout=1)
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    stream = await trio.open_tcp_stream("127.0.0.1", door.port)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client = Http2(stream)
    window = 0 if how == "window" else 2**31 - 1
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    if how == "socket":
        client.h2.increment_flow_control_window(2**31 - 65_536)
    await client.start("GET", "/openapi.json")
    await door.until(lambda: trio.lowlevel.current_statistics().tasks_living > before)
    with contextlib.suppress(trio.BrokenResourceError):  # cut off by now: this machine is slow
        for _ in range(99):  # more than the buffers of two sockets hold
            await client.start("GET", "/openapi.json")
    await door.until(lambda: trio.lowlevel.current_statistics().tasks_living == before)
    await stream.aclose()


async def test_drain_with_http_2_in_flight(open_door, infer_bytes):
    """The stream in flight is answered."""
    door = await open_door()
    model = door.engine.models["addsub"]
    model.is_held = True
    client = Http2(await trio.open_tcp_stream("127.0.0.1", door.port))
    head, _, body = infer_bytes().partition(b"\r\n\r\n")
    size = head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0].decode()
    await client.start("POST", "/v2/models/addsub/infer", body, [("inference-header-content-length", size)])
    await door.until(lambda: model.waiting)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.server.drain, trio.current_time() + 4)
            await trio.sleep(0.05)
            model.release()
            (reply,) = (await client.replies(1)).values()
    assert reply[0][":status"] == "200"


class Script:
    """An ASGI server's side of one request: messages for the application, and what it sent."""

    def __init__(self, *messages, method="POST", path="/v2/models/identity/infer", headers=()):
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"inference-header-content-length", b"0"), *headers],
        }
        self.messages = list(messages)
        self.sent = []
        self.more = trio.Event()

    async def receive(self):
        if self.messages:
            await trio.lowlevel.checkpoint()
            return self.messages.pop(0)
        await self.more.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)


def part(body, *, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.fixture
def application(door):
    """The ASGI application over the fake engine, with small limits."""
    settings = HttpSettings(body_bytes_max=100, body_stall_timeout=5)
    return AsgiApplication(door.listener.handle, settings)


async def test_asgi_bodies_are_drained_within_limits(application):
    """A body beyond the limit is read to its end, then refused; one within is answered."""
    script = Script(*[part(b"x" * 30) for _ in range(50)], part(b"", more=False))
    await application(script.scope, script.receive, script.send)
    assert not script.messages
    assert script.sent[0]["status"] == 400
    script = Script(part(b"x" * 30), part(b"y" * 30, more=False))
    await application(script.scope, script.receive, script.send)
    assert script.sent[0]["status"] == 200
    assert script.sent[1]["body"].endswith(b"x" * 30 + b"y" * 30)


async def test_asgi_client_that_leaves_amid_its_body(application, door):
    """A truncated body is never taken for a whole one."""
    script = Script(part(b"x" * 30), {"type": "http.disconnect"})
    await application(script.scope, script.receive, script.send)
    assert script.sent == []


async def test_asgi_client_that_leaves_while_its_job_waits(application, door):
    """The job is cancelled and nothing is sent."""
    model = door.engine.models["identity"]
    model.is_held = True
    script = Script(part(b"x" * 30, more=False))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(application, script.scope, script.receive, script.send)
        await door.until(lambda: model.waiting)
        script.more.set()
    assert len(model.cancelled) == 1
    assert script.sent == []


async def test_asgi_body_stall(application, autojump_clock):
    """A body that stands still is refused."""
    script = Script(part(b"x" * 30))
    await application(script.scope, script.receive, script.send)
    assert script.sent[0]["status"] == 408


async def test_asgi_lifespan(application):
    """Start and end are acknowledged."""
    script = Script({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await application({"type": "lifespan"}, script.receive, script.send)
    assert [message["type"] for message in script.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
