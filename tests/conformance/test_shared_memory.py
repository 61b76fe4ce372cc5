"""Triton's own clients with tensors in shared memory, and a client that takes its memory away at a bad moment."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.http.aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tests.conformance.servers import running_despina
from tests.conformance.suites import HERE

CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}
ROW_BYTES = 64
GONE = "Invalid offset + byte size for shared memory region: 'region'"


def address(door, running):
    return f"127.0.0.1:{running.http_port if door == 'http' else running.grpc_port}"


@pytest.fixture(params=list(CLIENTS))
def door(request):
    """http or grpc."""
    return request.param


@pytest.fixture
def module(door):
    return CLIENTS[door]


@pytest.fixture
def client(door, module, server):
    """A client of the server over `models/`, which leaves no region behind."""
    with module.InferenceServerClient(address(door, server)) as connected:
        yield connected
        connected.unregister_system_shared_memory()


@contextmanager
def memory(byte_size):
    """A region as a client makes it: its key, and its handle."""
    key = f"/despina_clients_{os.getpid()}_{os.urandom(4).hex()}"
    handle = shm.create_shared_memory_region("region", key, byte_size)
    try:
        yield SimpleNamespace(key=key, handle=handle, path="/dev/shm" + key)
    finally:
        shm.destroy_shared_memory_region(handle)


@pytest.fixture
def region(client):
    """4 rows of `simple`, registered: two for its inputs, two for its outputs."""
    with memory(4 * ROW_BYTES) as made:
        client.register_system_shared_memory("region", made.key, 4 * ROW_BYTES)
        yield made


def addsub(module, output_bytes=ROW_BYTES):
    """The inputs and outputs of a request that has them all in shared memory."""
    inputs, outputs = [], []
    for index in range(2):
        one = module.InferInput(f"INPUT{index}", [1, 16], "INT32")
        one.set_shared_memory("region", ROW_BYTES, index * ROW_BYTES)
        inputs.append(one)
        other = module.InferRequestedOutput(f"OUTPUT{index}")
        other.set_shared_memory("region", output_bytes, (2 + index) * ROW_BYTES)
        outputs.append(other)
    return inputs, outputs


def put(region, first, second):
    shm.set_shared_memory_region(region.handle, [first.astype(np.int32), second.astype(np.int32)])


def got(region, index):
    return shm.get_contents_as_numpy(region.handle, np.int32, [16], (2 + index) * ROW_BYTES).copy()


def test_in_and_out(client, module, region):
    """Goal: sum and difference appear in the client's memory, and nothing of them in the answer."""
    row = np.arange(16)
    for step in range(3):
        put(region, row, row * step)
        result = client.infer("simple", *addsub(module)[:1], outputs=addsub(module)[1])
        assert (got(region, 0) == row + row * step).all()
        assert (got(region, 1) == row - row * step).all()
        answer = result.get_response() if isinstance(result.get_response(), dict) else None
        if answer is not None:
            assert [set(output) for output in answer["outputs"]] == [{"name", "datatype", "shape"}] * 2
        else:
            assert list(result.get_response().raw_output_contents) == [b"", b""]


def test_status(client, region):
    """What was registered is told, and gone when it is unregistered."""
    (told,) = named(client.get_system_shared_memory_status())
    assert told == ("region", region.key, 4 * ROW_BYTES)
    client.unregister_system_shared_memory("region")
    assert named(client.get_system_shared_memory_status()) == []
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'region'"):
        client.get_system_shared_memory_status("region")


def named(status):
    """Name, key and size of each region, whichever client tells it."""
    if isinstance(status, list):
        return [(one["name"], one["key"], one["byte_size"]) for one in status]
    return [(one.name, one.key, one.byte_size) for one in status.regions.values()]


def test_mixed_sources(client, module, region):
    """One input in the region and one in the body, one output in the region and one in the answer."""
    row = np.arange(16, dtype=np.int32)
    put(region, row, row)
    inputs, outputs = addsub(module)
    inputs[1] = module.InferInput("INPUT1", [1, 16], "INT32")
    inputs[1].set_data_from_numpy(np.full((1, 16), 100, np.int32))
    outputs[1] = module.InferRequestedOutput("OUTPUT1")
    result = client.infer("simple", inputs, outputs=outputs)
    assert (got(region, 0) == row + 100).all()
    assert (result.as_numpy("OUTPUT1") == row - 100).all()


@pytest.mark.parametrize("size", [1 << 10, 1 << 16, 1 << 20, 1 << 24])
def test_sizes(client, module, size):
    """From a page's part to many pages: every byte arrives, in both directions."""
    data = np.random.default_rng(size).integers(0, 2**31, size // 4, np.int32).view(np.float32)
    with memory(2 * size) as large:
        shm.set_shared_memory_region(large.handle, [data])
        client.register_system_shared_memory("region", large.key, 2 * size)
        one = module.InferInput("IN_FP32", [1, size // 4], "FP32")
        one.set_shared_memory("region", size)
        other = module.InferRequestedOutput("OUT_FP32")
        other.set_shared_memory("region", size, size)
        client.infer("identity_any", [one], outputs=[other])
        written = shm.get_contents_as_numpy(large.handle, np.uint32, [size // 4], size)
        assert (written == data.view(np.uint32)).all()


def test_strings(client, module):
    """Strings have their lengths before them, there and back."""
    words = np.array([["", "a", "ä" * 100, "x" * 3000]], dtype=np.object_)
    with memory(1 << 14) as large:
        shm.set_shared_memory_region(large.handle, [serialize_byte_tensor(words)])
        client.register_system_shared_memory("region", large.key, 1 << 14)
        size = sum(4 + len(word.encode()) for word in words[0])
        one = module.InferInput("INPUT0", [1, 4], "BYTES")
        one.set_shared_memory("region", size)
        other = module.InferRequestedOutput("OUTPUT0")
        other.set_shared_memory("region", 1 << 13, 1 << 13)
        client.infer("identity_bytes", [one], outputs=[other])
        written = shm.get_contents_as_numpy(large.handle, np.object_, [4], 1 << 13)
        assert [word.decode() for word in written] == list(words[0])


def test_a_region_that_was_shrunk(client, module, region):
    """Goal: the request fails in the protocol's words, the server lives. Method: shrink, ask, grow again, ask."""
    put(region, np.arange(16), np.arange(16))
    for size in (0, ROW_BYTES, 2 * ROW_BYTES):
        os.truncate(region.path, size)
        inputs, outputs = addsub(module)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("simple", inputs, outputs=outputs)
        assert GONE in str(caught.value)
    os.truncate(region.path, 4 * ROW_BYTES)
    client.infer("simple", inputs, outputs=outputs)
    assert client.is_server_live()


def test_shrinking_while_requests_run(door, module, server):
    """Goal: there is no moment when shrinking hurts the server. Method: one thread shrinks and grows the object without
    rest while clients have 1 MiB read and written; each request works or fails in the protocol's words."""
    size = 1 << 20
    outcomes = []
    done = threading.Event()
    with memory(2 * size) as large:

        def ask():
            with module.InferenceServerClient(address(door, server)) as own:
                one = module.InferInput("IN_FP32", [1, size // 4], "FP32")
                one.set_shared_memory("region", size)
                other = module.InferRequestedOutput("OUT_FP32")
                other.set_shared_memory("region", size, size)
                while not done.is_set():
                    try:
                        own.infer("identity_any", [one], outputs=[other])
                        outcomes.append("answered")
                    except InferenceServerException as problem:
                        outcomes.append(problem.message())

        with module.InferenceServerClient(address(door, server)) as client:
            client.register_system_shared_memory("region", large.key, 2 * size)
            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            end = time.monotonic() + 3
            turn = 0
            while time.monotonic() < end or (len(set(outcomes)) < 2 and time.monotonic() < end + 20):
                turn += 1
                os.truncate(large.path, turn * 4099 % (2 * size))
                os.truncate(large.path, 2 * size)
                if turn % 50 == 0:
                    time.sleep(0.01)  # a moment in which requests can succeed
            done.set()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()
            client.unregister_system_shared_memory()
            assert client.is_server_live()
    assert set(outcomes) == {"answered", GONE}


def test_no_region_is_left_open(server, module, client):
    """Goal: the server closes what clients unregister. Method: count its open files over many regions."""
    folder = f"/proc/{server.pid}/fd"
    inputs, outputs = addsub(module)
    before = opened(folder)
    for _ in range(20):
        with memory(4 * ROW_BYTES) as made:
            client.register_system_shared_memory("region", made.key, 4 * ROW_BYTES)
            client.infer("simple", inputs, outputs=outputs)
            with pytest.raises(InferenceServerException):
                client.infer("simple", inputs, outputs=addsub(module, ROW_BYTES - 1)[1])
            os.truncate(made.path, ROW_BYTES)
            with pytest.raises(InferenceServerException):
                client.infer("simple", inputs, outputs=outputs)
            client.unregister_system_shared_memory("region")
    assert opened(folder) == before


def opened(folder):
    """How many shared memory objects of ours a process has open."""
    count = 0
    for number in os.listdir(folder):
        try:
            count += "despina_clients_" in os.readlink(f"{folder}/{number}")
        except FileNotFoundError:
            continue
    return count


async def asked(server, key):
    async with tritonclient.http.aio.InferenceServerClient(address("http", server)) as client:
        await client.register_system_shared_memory("region", key, 4 * ROW_BYTES)
        inputs, outputs = addsub(tritonclient.http)
        await asyncio.gather(*(client.infer("simple", inputs, outputs=outputs) for _ in range(20)))
        await client.unregister_system_shared_memory()


def test_the_asynchronous_client(server):
    """The same from asyncio, many at a time."""
    with memory(4 * ROW_BYTES) as made:
        put(made, np.arange(16), np.ones(16))
        asyncio.run(asked(server, made.key))
        assert (got(made, 0) == np.arange(16) + 1).all()


def test_cuda_regions(client, module):
    """On a machine without a GPU registering says so, and the rest of the extension answers."""
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a GPU: the made-up handle is refused in other words")
    with pytest.raises(InferenceServerException, match="'c', GPUs not supported"):
        client.register_cuda_shared_memory("c", b"eHh4" * 21 + b"eA==", 0, 8)
    client.unregister_cuda_shared_memory()
    assert not named_cuda(client.get_cuda_shared_memory_status())


def named_cuda(status):
    return status if isinstance(status, list) else list(status.regions)


def test_disabled(tmp_path):
    """Goal: with --allow-client-shm=false nothing can be registered, in the newest release's words; status answers."""
    with running_despina(HERE / "models", tmp_path, ["--allow-client-shm=false"]) as running, memory(64) as made:
        for door, module in CLIENTS.items():
            with module.InferenceServerClient(address(door, running)) as client:
                for ask in (
                    lambda client=client: client.register_system_shared_memory("region", made.key, 64),
                    lambda client=client: client.register_cuda_shared_memory("c", b"eA==", 0, 8),
                    lambda client=client: client.unregister_system_shared_memory(),
                    lambda client=client: client.unregister_cuda_shared_memory("c"),
                ):
                    with pytest.raises(InferenceServerException) as caught:
                        ask()
                    assert caught.value.message() == (
                        "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
                    )
                    assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
                assert named(client.get_system_shared_memory_status()) == []
