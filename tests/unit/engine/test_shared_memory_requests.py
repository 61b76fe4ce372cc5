"""Requests over shared memory through a whole engine: read late, written in time, let go of on every path."""

import gc
import os
import threading
import weakref

import numpy as np
import pytest
import trio
from despina.engine.port.settings import EngineSettings
from despina.schema.fault import DeadlineExceeded, Internal, InvalidArgument, QueueFull, QueueTimeout, ShuttingDown
from despina.schema.inference import InferenceRequest
from despina.schema.shared_memory import SharedMemoryRange, SharedUse
from despina.schema.tensor import Tensor

from tests import fakes
from tests.fakes import FakeBackend, Gate, chain, ensemble_text, request, tensor_text, write_model

OUTPUT_AT = 1024


class Client:
    """A client with one region of 4 KiB, registered as `r`."""

    def __init__(self):
        self.key = f"despina_test_{os.getpid()}_{os.urandom(4).hex()}"
        self.number = os.open(f"/dev/shm/{self.key}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self.number, 4096)
        self.region = None

    def register(self, engine):
        engine.shared_memory.register_system("r", self.key, 0, 4096)
        (region,) = engine.shared_memory.system_status("r")
        self.region = weakref.ref(region)

    def unregister(self, engine):
        engine.shared_memory.unregister_system("r")

    @property
    def is_open(self):
        """Whether the server still has the region open."""
        return self.region() is not None

    def put(self, value, at=0):
        os.pwrite(self.number, np.int32(value).tobytes(), at)

    def got(self, at=OUTPUT_AT):
        return int(np.frombuffer(os.pread(self.number, 4, at), np.int32)[0])

    def shrink(self, size=0):
        os.ftruncate(self.number, size)

    def close(self):
        os.close(self.number)
        os.unlink(f"/dev/shm/{self.key}")


@pytest.fixture
def client():
    made = Client()
    yield made
    made.close()


def shared_request(engine, *, at=0, size=4, output=4, id="", datatype="INT32", **options):
    """A request for `m` whose input lies in `r`, and whose output goes there (of `output` bytes; 0 for none)."""
    shared = SharedUse(engine.shared_memory)
    inputs = {"IN": shared.input("IN", datatype, (1, 1), SharedMemoryRange("r", at, size))}
    if output:
        shared.output("OUT", SharedMemoryRange("r", OUTPUT_AT, output))
    return InferenceRequest("m", inputs, id=id, shared=shared, **options)


def bytes_of(response):
    return [bytes(tensor.memory()) for tensor in response.outputs]


@pytest.fixture(params=["task", "prompt", "thread", "inline"])
def any_backend(request):
    """Executors that are awaited, that have a thread, and that run on the trio thread."""
    made = FakeBackend(asynchronous=request.param in ("task", "prompt"), movable=request.param == "inline")
    made.prompt = request.param == "prompt"
    return made


async def test_in_and_out(any_backend, repository, client):
    """Goal: the input is what the client wrote, the output is where it wants it, and not in the answer."""
    import despina

    write_model(repository, "m", more='parameters { key: "DESPINA_EXECUTOR" value { string_value: "auto" } }')
    async with despina.open_engine(repository, backends={"fake": any_backend}) as engine:
        client.register(engine)
        for value in (7, 8):
            client.put(value)
            response = await engine.infer_request(shared_request(engine))
            assert client.got() == value
            assert [(one.name, one.datatype, tuple(one.shape)) for one in response.outputs] == [
                ("OUT", "INT32", (1, 1))
            ]
            assert bytes_of(response) == [b""]
        response = await engine.infer_request(shared_request(engine, output=0))
        assert bytes_of(response) == [np.int32(8).tobytes()]
        assert engine.model("m").statistics.success_count == 3
        client.unregister(engine)
        assert not client.is_open


class DeviceRegion:
    """Memory of a GPU: whoever reads or writes it waits."""

    on_device = True
    byte_size = 2048

    def __init__(self, name):
        self.name = name
        self.data = bytearray(2048)
        self.threads = []

    def check(self, offset, size):
        """It is there."""

    def read(self, offset, size):
        self.threads.append(threading.current_thread())
        return memoryview(bytearray(self.data[offset : offset + size]))

    def write(self, offset, data):
        if len(data):
            self.threads.append(threading.current_thread())
            self.data[offset : offset + len(data)] = data


async def test_device_memory_is_copied_by_other_threads(any_backend, repository):
    """Goal: the trio thread never waits for a device, whichever way a model is executed; what did run there leaves."""
    import despina

    write_model(repository, "m", more='parameters { key: "DESPINA_EXECUTOR" value { string_value: "auto" } }')
    async with despina.open_engine(repository, backends={"fake": any_backend}) as engine:
        for _ in range(30):
            await engine.infer("m", {"IN": np.zeros((1, 1), np.int32)})
        engine.shared_memory._regions["r"] = region = DeviceRegion("r")
        for value in range(1, 4):
            region.data[:4] = np.int32(value).tobytes()
            response = await engine.infer_request(shared_request(engine))
            assert bytes_of(response) == [b""]
            assert region.data[OUTPUT_AT : OUTPUT_AT + 4] == np.int32(value).tobytes()
        assert len(region.threads) == 6
        assert threading.current_thread() not in region.threads


async def test_inputs_stay_on_the_device_for_who_takes_them_there(repository, monkeypatch):
    """Goal: an executor that says so gets them unread, others do not; whoever looks at one reads it there and then."""
    import despina

    write_model(repository, "m")
    seen = []

    def execute(batch):
        for job in batch.jobs:
            tensor = job.request.inputs["IN"]
            seen.append(tensor.on_device)
            job.respond([Tensor.of("OUT", tensor.numpy().copy())])

    for takes in (True, False):
        monkeypatch.setattr(fakes.FakeThread, "takes_device_memory", takes, raising=False)
        backend = FakeBackend(asynchronous=False)
        backend.execute_sync = execute
        async with despina.open_engine(repository, backends={"fake": backend}) as engine:
            engine.shared_memory._regions["r"] = region = DeviceRegion("r")
            region.data[:4] = np.int32(7).tobytes()
            await engine.infer_request(shared_request(engine))
            assert region.data[OUTPUT_AT : OUTPUT_AT + 4] == np.int32(7).tobytes()
    assert seen == [True, False]


async def test_outputs_that_do_not_fit_a_device(any_backend, repository):
    """Goal: refused in the same words wherever the region is, and nothing is written."""
    import despina

    write_model(repository, "m")
    async with despina.open_engine(repository, backends={"fake": any_backend}) as engine:
        engine.shared_memory._regions["r"] = region = DeviceRegion("r")
        with pytest.raises(despina.Internal, match=r"for output 'OUT' \(3 bytes\) should be at least 4 bytes"):
            await engine.infer_request(shared_request(engine, output=3))
        assert region.data == bytes(2048)


async def test_large_inputs_of_awaited_executors(opened, repository, client):
    """An input too large for the trio thread is copied by another."""
    size = 1 << 20
    write_model(
        repository,
        "m",
        tensors=tensor_text("input", "IN", "TYPE_UINT8", (-1,)) + tensor_text("output", "OUT", "TYPE_UINT8", (-1,)),
    )
    client.shrink(2 * size)
    data = np.random.default_rng(0).bytes(size)
    os.pwrite(client.number, data, 0)
    async with opened() as engine:
        engine.shared_memory.register_system("r", client.key, 0, 2 * size)
        shared = SharedUse(engine.shared_memory)
        tensor = shared.input("IN", "UINT8", (1, size), SharedMemoryRange("r", 0, size))
        shared.output("OUT", SharedMemoryRange("r", size, size))
        await engine.infer_request(InferenceRequest("m", {"IN": tensor}, shared=shared))
    assert os.pread(client.number, size, size) == data


async def test_an_input_is_read_when_its_turn_comes(opened, repository, backend, client):
    """Goal: a queued request holds no copy, and what the client wrote last before its turn counts."""
    backend.execute = gate = Gate()
    write_model(repository, "m", max_batch_size=1)
    async with opened() as engine, trio.open_nursery() as nursery:
        client.register(engine)
        nursery.start_soon(engine.infer_request, request(value=1, rows=1))
        await trio.testing.wait_all_tasks_blocked()
        client.put(3)
        nursery.start_soon(engine.infer_request, shared_request(engine))
        await trio.testing.wait_all_tasks_blocked()
        client.put(4)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        client.put(5)
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert client.got() == 4


async def test_a_region_that_shrinks_fails_its_request_alone(opened, repository, backend, client):
    """Goal: of one batch, only the request whose region has gone fails, and it is counted. Method: shrink while it is
    queued behind another."""
    backend.execute = gate = Gate()
    write_model(repository, "m", more="dynamic_batching { preferred_batch_size: [ 2 ] }")
    outcomes = {}

    async def call(name, asked):
        try:
            outcomes[name] = (await engine.infer_request(asked)).outputs[0].numpy().ravel().tolist()
        except InvalidArgument as fault:
            outcomes[name] = fault.message

    async with opened() as engine, trio.open_nursery() as nursery:
        client.register(engine)
        nursery.start_soon(call, "first", request(value=1, id="first"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, "shared", shared_request(engine, id="shared", output=0))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, "second", request(value=2, id="second"))
        await trio.testing.wait_all_tasks_blocked()
        client.shrink()
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == {
            "first": [1],
            "second": [2],
            "shared": "Invalid offset + byte size for shared memory region: 'r'",
        }
        assert backend.ids == [["first"], ["second"]]
        statistics = engine.model("m").statistics
        assert (statistics.success_count, statistics.fail_count) == (2, 1)
        client.unregister(engine)
        assert not client.is_open


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_batch_of_nothing_but_failures(repository, client, asynchronous):
    """The model is not bothered, and the next request is served."""
    import despina

    backend = FakeBackend(asynchronous=asynchronous)
    write_model(repository, "m")
    async with despina.open_engine(repository, backends={"fake": backend}) as engine:
        client.register(engine)
        asked = shared_request(engine)
        client.shrink()
        with pytest.raises(InvalidArgument):
            await engine.infer_request(asked)
        assert backend.ids == []
        client.shrink(4096)
        await engine.infer_request(shared_request(engine))
        assert engine.model("m").ledger.inflight == 0


async def test_an_output_that_does_not_fit(opened, repository, client):
    """The request fails as the reference's does, nothing is written, and it counts as a failure."""
    write_model(repository, "m")
    async with opened() as engine:
        client.register(engine)
        client.put(5)
        with pytest.raises(Internal) as caught:
            await engine.infer_request(shared_request(engine, output=3))
        assert caught.value.message == (
            "shared memory size specified with the request for output 'OUT' (3 bytes) should be at least 4 bytes to "
            "hold the results"
        )
        assert client.got() == 0
        assert engine.model("m").statistics.fail_count == 1


async def test_a_region_that_shrinks_before_the_output(opened, repository, backend, client):
    """The input was read, the output has no place any more: that request fails."""

    async def execute(batch):
        client.shrink(OUTPUT_AT)
        for job in batch.jobs:
            job.respond([Tensor("OUT", "INT32", (1, 1), b"abcd")])

    backend.execute = execute
    write_model(repository, "m")
    async with opened() as engine:
        client.register(engine)
        with pytest.raises(InvalidArgument, match="Invalid offset"):
            await engine.infer_request(shared_request(engine))
        client.unregister(engine)
        assert not client.is_open


@pytest.mark.parametrize(("size", "got"), [(3, 3), (5, 5), (1024, 1024)])
async def test_an_input_of_the_wrong_size(opened, repository, client, size, got):
    """Refused when it is submitted, without being read."""
    write_model(repository, "m")
    async with opened() as engine:
        client.register(engine)
        with pytest.raises(InvalidArgument) as caught:
            await engine.infer_request(shared_request(engine, size=size))
        assert caught.value.message == (
            f"[request id: <id_unknown>] input byte size mismatch for input 'IN' for model 'm'. Expected 4, got {got}"
        )


async def test_strings_are_checked_when_they_are_read(opened, repository, backend, client):
    """Lengths that lie fail the request before the model sees it."""
    text = tensor_text("input", "IN", "TYPE_STRING") + tensor_text("output", "OUT", "TYPE_STRING")
    write_model(repository, "m", tensors=text)
    async with opened() as engine:
        client.register(engine)
        os.pwrite(client.number, b"\3\0\0\0abc", 0)
        response = await engine.infer_request(shared_request(engine, datatype="BYTES", size=7, output=16))
        assert bytes_of(response) == [b""]
        assert os.pread(client.number, 7, OUTPUT_AT) == b"\3\0\0\0abc"
        os.pwrite(client.number, b"\xff", 0)
        with pytest.raises(InvalidArgument, match="incomplete string data for inference input 'IN'"):
            await engine.infer_request(shared_request(engine, datatype="BYTES", size=7, output=16))
        assert len(backend.ids) == 1


class Refused(Exception):
    """What a model raises in these tests."""


@pytest.mark.parametrize(
    "path", ["success", "model fault", "left queued", "left executing", "late queued", "late executing", "queue full",
             "queue timeout"],
)  # fmt: skip
async def test_every_path_lets_go(virtual_time, opened, repository, backend, client, path):
    """Goal: however a request ends, its region is closed once nothing works on it, and a caller that has left has its
    region not written to. Method: one shared request per path; unregister early, look at the end."""
    gate = Gate()
    failing = path == "model fault"
    backend.execute = gate

    async def fail(batch):
        raise Refused("no")

    if failing:
        backend.execute = fail
    policy = "max_queue_size: 1" + (" default_timeout_microseconds: 1000000" if path == "queue timeout" else "")
    write_model(repository, "m", max_batch_size=1, more=f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}")
    queued = path in ("left queued", "late queued", "queue full", "queue timeout")
    ended = []
    async with opened() as engine, trio.open_nursery() as nursery:
        client.register(engine)
        client.put(9)
        client.put(1, OUTPUT_AT)

        async def call(asked, deadline, scope):
            with scope:
                try:
                    await engine.infer_request(asked, deadline=deadline)
                    ended.append("answered")
                except Exception as fault:
                    ended.append(type(fault))
                    fault.__traceback__ = None

        if queued:
            nursery.start_soon(engine.infer_request, request(value=1, id="blocker"))
            await trio.testing.wait_all_tasks_blocked()
        if path == "queue full":
            nursery.start_soon(engine.infer_request, request(value=2, id="filler"))
            await trio.testing.wait_all_tasks_blocked()
        scope = trio.CancelScope()
        deadline = trio.current_time() + 5 if path.startswith("late") else 0.0
        nursery.start_soon(call, shared_request(engine, id="shared"), deadline, scope)
        await trio.testing.wait_all_tasks_blocked()
        client.unregister(engine)
        written = False
        match path:
            case "success":
                assert client.is_open
                gate.release()
                expected, written = ["answered"], True
            case "model fault":
                expected = None
            case "left queued" | "left executing":
                assert client.is_open
                scope.cancel()
                expected = []
            case "late queued" | "late executing":
                await trio.sleep(6)
                expected = [DeadlineExceeded]
            case "queue full":
                expected = [QueueFull]
            case "queue timeout":
                await trio.sleep(2)
                expected = [QueueTimeout]
        await trio.testing.wait_all_tasks_blocked()
        if path.endswith("executing"):
            assert client.is_open, "the model may still look"
            assert client.got() == 1
            gate.release()
            await trio.testing.wait_all_tasks_blocked()
        while gate.held:
            gate.release()
            await trio.testing.wait_all_tasks_blocked()
        if expected is not None:
            assert ended == expected
        assert not client.is_open
        assert client.got() == (9 if written else 1)


async def test_a_model_that_ends_lets_go(virtual_time, opened, repository, backend, client):
    """Goal: unloading closes the regions of what waits and of what executes. Method: a model that never answers."""
    backend.execute = Gate()
    write_model(repository, "m", max_batch_size=1)
    ended = []

    async def call(engine):
        with pytest.raises(ShuttingDown) as caught:
            await engine.infer_request(shared_request(engine))
        ended.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        with pytest.raises(Internal, match="Exit timeout expired"):  # noqa: PT012  # it is raised at the end
            async with opened(exit_timeout_secs=2) as engine:
                client.register(engine)
                nursery.start_soon(call, engine)
                nursery.start_soon(call, engine)
                await trio.testing.wait_all_tasks_blocked()
                client.unregister(engine)
    assert len(ended) == 2
    backend.execute = None
    gc.collect()
    assert not client.is_open


async def test_preserved_order(opened, repository, client, backend):
    """Where answers keep the order of requests, outputs are in place when the answer comes."""
    gate = Gate()
    backend.execute = gate
    write_model(repository, "m", max_batch_size=2, instances=2, more="dynamic_batching { preserve_ordering: true }")
    answered = []

    async def call(asked):
        answered.append(bytes_of(await engine.infer_request(asked)))

    async with opened() as engine, trio.open_nursery() as nursery:
        client.register(engine)
        client.put(6)
        nursery.start_soon(call, request(value=1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call, shared_request(engine))
        await trio.testing.wait_all_tasks_blocked()
        gate.release(1)
        await trio.testing.wait_all_tasks_blocked()
        assert answered == []
        gate.release()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(answered) == [[b""], [np.int32(1).tobytes()]]
        assert client.got() == 6


def test_settings_have_bounds():
    """Clients' numbers have limits, which may be moved but not taken away."""
    for name in ("shared_memory_regions_max", "shared_memory_input_bytes_max"):
        with pytest.raises(ValueError, match=name):
            EngineSettings(model_repository=".", **{name: 0})


@pytest.mark.parametrize("elements", [1, 200_000], ids=["small", "large"])
async def test_ensembles(opened, repository, tmp_path, elements):
    """Goal: an ensemble's input is read from the client's region, on a thread where that takes long, and its output
    goes there; requests begin in the order of arrival; who leaves while it is read, too, lets go of the region."""
    tensors = tensor_text("input", "IN", dims=(-1,)) + tensor_text("output", "OUT", dims=(-1,))
    for name in "ab":
        write_model(repository, name, tensors=tensors)
    config = ensemble_text(steps=chain("a", "b")).replace("dims: [1]", "dims: [-1]")
    write_model(repository, "e", config=config)
    key = f"despina_test_{os.getpid()}_{os.urandom(4).hex()}"
    size = 4 * elements
    number = os.open(f"/dev/shm/{key}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(number, 2 * size)
        async with opened() as engine:
            engine.shared_memory.register_system("r", key, 0, 2 * size)
            (status,) = engine.shared_memory.system_status("r")
            region = weakref.ref(status)
            del status

            def asked(id=""):
                shared = SharedUse(engine.shared_memory)
                inputs = {"IN": shared.input("IN", "INT32", (1, elements), SharedMemoryRange("r", 0, size))}
                shared.output("OUT", SharedMemoryRange("r", size, size))
                return InferenceRequest("e", inputs, id=id, shared=shared)

            for value in (7, 8):
                os.pwrite(number, np.full(elements, value, np.int32).tobytes(), 0)
                response = await engine.infer_request(asked())
                got = np.frombuffer(os.pread(number, size, size), np.int32)
                assert (got == value).all()
                assert bytes_of(response) == [b""]
            order = []
            calls = [
                engine.model("e").submit(asked(str(i)), lambda job: order.append(job.request.id)) for i in range(6)
            ]
            calls[3].cancel()
            with trio.fail_after(10):
                while len(order) < 5:  # noqa: ASYNC110  # callers of jobs are told by calls
                    await trio.sleep(0.01)
            assert order == ["0", "1", "2", "4", "5"]
            os.ftruncate(number, 0)
            with pytest.raises(InvalidArgument):
                await engine.infer_request(asked())
            assert engine.model("e").ledger.inflight == engine.model("a").ledger.pins == 0
            engine.shared_memory.unregister_system("r")
            del calls
            gc.collect()
            assert region() is None
    finally:
        os.close(number)
        os.unlink(f"/dev/shm/{key}")
