"""The registry of regions, and regions: texts, bounds, what a client can do to its memory at a bad moment."""

import contextlib
import ctypes
import errno
import gc
import inspect
import mmap
import os
import sys
import threading
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import trio
import trio.testing
from despina.engine.request import cuda_region, system_region
from despina.engine.request.shared_memory import SharedMemory
from despina.schema.fault import AlreadyExists, Fault, Internal, InvalidArgument, NotFound, Unavailable, Unsupported
from despina.schema.shared_memory import SharedMemoryRange
from despina.schema.text import encodable
from hypothesis import given
from hypothesis import strategies as st

PAGE = mmap.PAGESIZE


@pytest.fixture
def shared_object():
    """A POSIX shared memory object of two pages, as a client makes it: its key, and its open file."""
    key = f"despina_test_{os.getpid()}_{os.urandom(4).hex()}"
    number = os.open(f"/dev/shm/{key}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(number, 2 * PAGE)
    os.pwrite(number, bytes(range(256)) * (2 * PAGE // 256), 0)
    yield SimpleNamespace(key=key, number=number, path=f"/dev/shm/{key}")
    os.close(number)
    if os.path.exists(f"/dev/shm/{key}"):
        os.unlink(f"/dev/shm/{key}")


@pytest.fixture
def memory():
    """A registry on a machine without a GPU."""
    return SharedMemory(cuda=lambda: None)


@pytest.fixture
def registered(memory, shared_object):
    """A registry with region `r` over the whole object."""
    memory.register_system("r", "/" + shared_object.key, 0, 2 * PAGE)
    return memory


def refusal(kind, function, *arguments):
    call = partial(trio.run, function) if inspect.iscoroutinefunction(function) else function
    with pytest.raises(kind) as caught:
        call(*arguments)
    assert type(caught.value) is kind
    return caught.value.message


def open_files():
    return len(os.listdir("/proc/self/fd"))


# --- Registering


def test_status_says_what_was_registered(memory, shared_object):
    """By name and all, in the order of names; the key as the client spelled it."""
    memory.register_system("z", shared_object.key, PAGE, 8)
    memory.register_system("a", "/" + shared_object.key, 0, 2 * PAGE)
    told = [(one.name, one.key, one.offset, one.byte_size) for one in memory.system_status()]
    assert told == [("a", "/" + shared_object.key, 0, 2 * PAGE), ("z", shared_object.key, PAGE, 8)]
    assert [one.name for one in memory.system_status("z")] == ["z"]
    assert memory.cuda_status() == []


@pytest.mark.parametrize("key", ["", "/", "///", "no_such_object", "a/b", "/../etc", ".", "x" * 300, "nul\0", "\udc80"])
def test_keys_that_cannot_be_opened(memory, key):
    """None of them reaches beyond the folder of shared memory objects."""
    text = refusal(Internal, memory.register_system, "r", key, 0, 8)
    assert text == f"Unable to open shared memory region: '{encodable(key)}'"


def test_keys_that_are_no_objects(memory, tmp_path):
    """A link, a folder and a pipe are not opened, or not kept open."""
    name = f"despina_test_{os.getpid()}_odd"
    path = f"/dev/shm/{name}"
    before = open_files()
    for make, remove in (
        (lambda: os.symlink("/etc/passwd", path), os.unlink),
        (lambda: os.mkdir(path), os.rmdir),
        (lambda: os.mkfifo(path), os.unlink),
    ):
        make()
        try:
            assert "Unable to open" in refusal(Internal, memory.register_system, "r", name, 0, 8)
        finally:
            remove(path)
    assert open_files() == before


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_reserved_keys(memory, slashes):
    """The memory of models in other processes is nobody's to register."""
    key = f"{slashes}triton_python_backend_shm_region_1"
    assert refusal(InvalidArgument, memory.register_system, "r", key, 0, 8) == (
        f"cannot register shared memory region 'r' with key '{key}' as the key contains the reserved prefix "
        "'triton_python_backend_shm_region_'"
    )


@pytest.mark.parametrize(
    ("offset", "size", "ending"),
    [
        (0, 2 * PAGE + 1, "invalid args"),
        (PAGE, PAGE + 1, "invalid args"),
        (2 * PAGE, 1, "invalid args"),
        (0, 2**64 - 1, "invalid args"),
        (2**64 - 1, 2**64 - 1, "invalid args"),
        (1, 8, f"unable to process address space{os.strerror(errno.EINVAL)}"),
        (0, 0, f"unable to process address space{os.strerror(errno.EINVAL)}"),
        (2 * PAGE, 0, f"unable to process address space{os.strerror(errno.EINVAL)}"),
    ],
)
def test_ranges_that_are_not_in_the_object(memory, shared_object, offset, size, ending):
    """Beyond its end, not on a page, or nothing at all. Nothing stays open."""
    before = open_files()
    text = refusal(InvalidArgument, memory.register_system, "r", shared_object.key, offset, size)
    assert text == f"failed to register shared memory region 'r': {ending}"
    assert memory.system_status() == []
    assert open_files() == before


def test_names_are_unique(registered, shared_object):
    """A name is taken over both kinds, and that is told before anything about the key."""
    text = "shared memory region 'r' already in manager"
    assert refusal(AlreadyExists, registered.register_system, "r", "no", 0, 0) == text
    assert refusal(AlreadyExists, registered.register_cuda, "r", b"", 0, 0) == text
    registered.register_system("s", shared_object.key, 0, 8)


def test_unknown_names(registered):
    """Status misses them in its own kind's words, unregister does not mind."""
    assert refusal(NotFound, registered.system_status, "x") == "Unable to find system shared memory region: 'x'"
    assert refusal(NotFound, registered.cuda_status, "x") == "Unable to find cuda shared memory region: 'x'"
    assert refusal(NotFound, registered.cuda_status, "r") == (
        "The region named 'r' is registered as system shared memory, not CUDA shared memory"
    )
    registered.unregister_system("x")
    trio.run(registered.unregister_cuda, "r")
    trio.run(registered.unregister_cuda)
    assert len(registered.system_status()) == 1


def test_the_number_of_regions_is_bounded(shared_object):
    """Each is an open file, so there is a limit, and room again after unregistering."""
    memory = SharedMemory(regions_max=2)
    memory.register_system("a", shared_object.key, 0, 8)
    memory.register_system("b", shared_object.key, 0, 8)
    assert "there are 2 regions already" in refusal(Unavailable, memory.register_system, "c", shared_object.key, 0, 8)
    memory.unregister_system("a")
    memory.register_system("c", shared_object.key, 0, 8)


def test_disabled():
    """Registering and unregistering are refused, status answers."""
    memory = SharedMemory(allowed=False)
    for function, arguments in (
        (memory.register_system, ("r", "k", 0, 8)),
        (memory.register_cuda, ("r", bytes(64), 0, 8)),
        (memory.unregister_system, ()),
        (memory.unregister_cuda, ("r",)),
    ):
        assert refusal(Unsupported, function, *arguments) == (
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
        )
    assert memory.system_status() == memory.cuda_status() == []


# --- Finding


@given(offset=st.integers(0, 2**64 - 1) | st.integers(0, 40), size=st.integers(0, 2**64 - 1) | st.integers(0, 40))
def test_an_extent_lies_within_its_region(offset, size):
    """Goal: whatever numbers a client sends, what is found is inside. Method: a region of 32 bytes, any numbers."""
    memory = SharedMemory()
    region = SimpleNamespace(name="r", byte_size=32, check=lambda *_: None)
    memory._regions["r"] = region
    inside = offset < 32 and offset + size <= 32 and offset + size > 0
    place = SharedMemoryRange("r", offset, size)
    if inside:
        assert memory.find(place, is_input=False).byte_size == size
    else:
        expected = "Invalid offset" if offset >= 32 else "Invalid offset + byte size"
        assert refusal(InvalidArgument, memory.find, place, False) == f"{expected} for shared memory region: 'r'"


def test_a_region_that_is_not_there(memory):
    """Its name is told."""
    place = SharedMemoryRange("no", 0, 4)
    assert refusal(NotFound, memory.find, place, True) == "Unable to find shared memory region: 'no'"


def test_large_inputs_are_refused(shared_object):
    """An object may be larger than the machine's memory: inputs have a bound, outputs are as large as they are."""
    memory = SharedMemory(input_bytes_max=100)
    os.ftruncate(shared_object.number, 2**40)
    memory.register_system("r", shared_object.key, 0, 2**40)
    text = refusal(InvalidArgument, memory.find, SharedMemoryRange("r", 0, 101), True)
    assert "input of 101 bytes in shared memory region 'r' exceeds the maximum of 100 bytes" in text
    memory.find(SharedMemoryRange("r", 0, 100), is_input=True)
    memory.find(SharedMemoryRange("r", 0, 2**40), is_input=False)


# --- Reading and writing


def test_offsets_add_up(memory, shared_object):
    """A request's offset counts from the region's start, the region's from the object's."""
    memory.register_system("r", shared_object.key, PAGE, PAGE)
    extent = memory.find(SharedMemoryRange("r", 3, 4), is_input=True)
    assert bytes(extent.read()) == bytes([3, 4, 5, 6])
    memory.find(SharedMemoryRange("r", 16, 8), is_input=False).write(b"abc")
    assert os.pread(shared_object.number, 5, PAGE + 15) == bytes([15]) + b"abc" + bytes([19])


def test_what_was_read_is_ours(registered, shared_object):
    """A copy: writable, aligned, and deaf to what the client writes later."""
    view = registered.find(SharedMemoryRange("r", 0, 16), is_input=True).read()
    os.pwrite(shared_object.number, b"x" * 16, 0)
    array = np.frombuffer(view, np.int64)
    assert array.flags.writeable
    assert array.flags.aligned
    assert bytes(view) == bytes(range(16))


def test_the_client_may_unlink(registered, shared_object):
    """The region lives on without its name."""
    os.unlink(shared_object.path)
    assert bytes(registered.find(SharedMemoryRange("r", 0, 2), is_input=True).read()) == b"\0\1"


def test_a_region_that_has_shrunk(registered, shared_object):
    """Goal: found, read and written, each says so and none dies. Method: shrink before each step, then grow again."""
    text = "Invalid offset + byte size for shared memory region: 'r'"
    place = SharedMemoryRange("r", PAGE, 8)
    extent = registered.find(place, is_input=True)
    os.ftruncate(shared_object.number, PAGE + 4)
    assert refusal(InvalidArgument, registered.find, place, True) == text
    assert refusal(InvalidArgument, extent.read) == text
    assert refusal(InvalidArgument, extent.write, b"12345678") == text
    assert os.fstat(shared_object.number).st_size == PAGE + 4
    extent.write(b"1234")
    os.ftruncate(shared_object.number, 0)
    assert refusal(InvalidArgument, extent.read) == text
    os.ftruncate(shared_object.number, 2 * PAGE)
    assert bytes(extent.read()) == bytes(8)


def test_a_file_system_without_room(registered, shared_object, monkeypatch):
    """Goal: where a mapping would kill us, writing fails. Method: a pwrite that finds the device full."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    extent = registered.find(SharedMemoryRange("r", 0, 8), is_input=False)
    monkeypatch.setattr(system_region.os, "pwrite", full)
    assert refusal(Internal, extent.write, b"x") == (
        "unable to write to shared memory region 'r': No space left on device"
    )


def test_short_reads_and_writes_go_on(registered, shared_object, monkeypatch):
    """The kernel may take less than asked: the rest follows."""
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(system_region.os, "preadv", lambda number, views, at: preadv(number, [views[0][:3]], at))
    monkeypatch.setattr(system_region.os, "pwrite", lambda number, data, at: pwrite(number, data[:3], at))
    extent = registered.find(SharedMemoryRange("r", 8, 8), is_input=True)
    assert bytes(extent.read()) == bytes(range(8, 16))
    extent.write(b"abcdefgh")
    assert bytes(extent.read()) == b"abcdefgh"


def test_shrinking_while_others_read_and_write(registered, shared_object):
    """Goal: no moment is a bad one. Method: one thread shrinks and grows the object, others use it all the time; each
    use works or raises a fault."""
    done = threading.Event()
    outcomes = []

    def use(number):
        place = SharedMemoryRange("r", 0, 2 * PAGE)
        while not done.is_set():
            try:
                extent = registered.find(place, is_input=True)
                outcomes.append(len(extent.read()))
                extent.write(bytes(2 * PAGE))
            except Fault as fault:
                outcomes.append(type(fault))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3000):
        os.ftruncate(shared_object.number, 0)
        os.ftruncate(shared_object.number, 2 * PAGE)
    done.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert set(outcomes) <= {2 * PAGE, InvalidArgument}


# --- Letting go


def test_unregistering_frees_the_name_and_later_the_file(registered, shared_object):
    """Goal: gone at once for everybody new, there until the last use is over for those inside."""
    before = open_files()
    extent = registered.find(SharedMemoryRange("r", 0, 4), is_input=True)
    registered.unregister_system("r")
    assert registered.system_status() == []
    refusal(NotFound, registered.find, SharedMemoryRange("r", 0, 4), True)
    registered.register_system("r", shared_object.key, PAGE, 8)
    assert bytes(extent.read()) == bytes(range(4))
    assert open_files() == before + 1
    del extent
    assert open_files() == before


def test_unregister_all(registered, shared_object):
    """Every region of that kind, in use or not."""
    registered.register_system("s", shared_object.key, 0, 8)
    before = open_files()
    registered.unregister_system()
    assert registered.system_status() == []
    assert open_files() == before - 2


# --- CUDA, with a driver of our own


class FakeCuda:
    """One device, whose allocations are bytearrays by handle."""

    def __init__(self):
        self.memory = {b"h" * 64: np.arange(64, dtype=np.uint8)}
        self.open = {}
        self.sizes = True

    def open_handle(self, device, handle):
        if device != 0 or handle not in self.memory:
            raise RuntimeError("cudaErrorInvalidValue")
        address = 1000 * (len(self.open) + 1)
        self.open[address] = self.memory[handle]
        return address

    def close_handle(self, device, address):
        del self.open[address]

    def allocated(self, device, address):
        return self.open[address].size if self.sizes else None

    def _at(self, address, size):
        base = address // 1000 * 1000
        data = self.open[base][address - base :]
        if size > data.size:
            raise RuntimeError("cudaErrorInvalidValue: beyond the allocation")
        return data[:size]

    def read(self, device, address, size):
        return self._at(address, size).copy()

    def copy(self, device, address, source_device, source, size):
        assert device == source_device == 0
        self._at(address, size)[:] = self._at(source, size)

    def write(self, device, address, data):
        self._at(address, data.size)[:] = data


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def gpu_memory(cuda):
    """A registry on a machine with a GPU."""
    return SharedMemory(cuda=lambda: cuda)


def test_without_a_gpu(memory):
    """The words of a server that was built without."""
    assert refusal(InvalidArgument, memory.register_cuda, "c", bytes(64), 0, 8) == (
        "failed to register CUDA shared memory region: 'c', GPUs not supported"
    )


def test_cupy_is_not_needed(monkeypatch):
    """Neither its absence nor that of a driver is an error until somebody registers."""
    for cupy in (
        None,
        SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 0))),
        SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 1 / 0))),
    ):
        monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
        cuda_region.load_cuda.cache_clear()
        assert cuda_region.load_cuda() is None
    cuda_region.load_cuda.cache_clear()


def test_a_cuda_region(gpu_memory, cuda):
    """Registered, told, read, written, closed when the last use is over."""
    trio.run(gpu_memory.register_cuda, "c", b"h" * 64, 0, 32)
    (told,) = gpu_memory.cuda_status("c")
    assert (told.name, told.device_id, told.byte_size) == ("c", 0, 32)
    assert refusal(NotFound, gpu_memory.system_status, "c") == (
        "The region named 'c' is registered as CUDA shared memory, not system shared memory"
    )
    refusal(InvalidArgument, gpu_memory.find, SharedMemoryRange("c", 30, 4), True)
    extent = gpu_memory.find(SharedMemoryRange("c", 4, 4), is_input=True)
    assert bytes(extent.read()) == bytes([4, 5, 6, 7])
    extent.write(b"ab")
    extent.write(b"")
    assert cuda.memory[b"h" * 64][4:7].tobytes() == b"ab\6"
    gone = weakref.ref(told)
    del told
    trio.run(gpu_memory.unregister_cuda, "c")
    assert cuda.open
    assert bytes(extent.read()) == b"ab\6\7"
    del extent
    gc.collect()  # pytest keeps the frames of what was raised
    assert gone() is None
    assert not cuda.open


@pytest.mark.parametrize(
    ("handle", "device", "size", "text"),
    [
        (b"x" * 64, 0, 8, "failed to register shared memory region: invalid args"),
        (b"h" * 63, 0, 8, "failed to register shared memory region: invalid args"),
        (b"h" * 64, 1, 8, "failed to register shared memory region: invalid args"),
        (b"h" * 64, -1, 8, "failed to register shared memory region: invalid args"),
        (b"h" * 64, 2**63, 8, "failed to register shared memory region: invalid args"),
        (b"h" * 64, 0, 65, "failed to register shared memory region 'c': invalid args"),
    ],
)
def test_cuda_regions_that_cannot_be(gpu_memory, cuda, handle, device, size, text):
    """Bad handles, devices and sizes; what was opened is closed again."""
    assert refusal(InvalidArgument, gpu_memory.register_cuda, "c", handle, device, size) == text
    gc.collect()
    assert not cuda.open
    assert gpu_memory.cuda_status() == []


def test_from_device_to_device(gpu_memory, cuda):
    """What lies on a device goes into a region and comes out of it there; what the driver raises fails that request."""
    cuda.memory[b"o" * 64] = np.zeros(64, np.uint8)
    trio.run(gpu_memory.register_cuda, "c", b"h" * 64, 0, 32)
    other = cuda.open_handle(0, b"o" * 64)
    extent = gpu_memory.find(SharedMemoryRange("c", 4, 8), is_input=True)
    assert extent.on_device
    extent.read_to_device(0, other + 2, 8)
    assert cuda.memory[b"o" * 64][2:10].tolist() == list(range(4, 12))
    extent.write_from_device(0, other, 4)
    assert cuda.memory[b"h" * 64][:10].tolist() == [0, 1, 2, 3, 0, 0, 4, 5, 8, 9]
    extent.read_to_device(0, other + 1000, 0)
    assert "unable to read CUDA shared memory region 'c'" in refusal(Internal, extent.read_to_device, 0, other + 62, 8)
    text = refusal(Internal, extent.write_from_device, 0, other + 62, 8)
    assert "unable to write to CUDA shared memory region 'c'" in text
    cuda.close_handle(0, other)


def test_a_driver_that_fails(gpu_memory, cuda):
    """What the driver raises while copying fails that request."""
    cuda.sizes = False
    trio.run(gpu_memory.register_cuda, "c", b"h" * 64, 0, 100)
    extent = gpu_memory.find(SharedMemoryRange("c", 60, 20), is_input=True)
    assert "unable to read CUDA shared memory region 'c': cudaError" in refusal(Internal, extent.read)
    assert "unable to write to CUDA shared memory region 'c'" in refusal(Internal, extent.write, bytes(20))


async def test_the_first_region_is_opened_on_another_thread(cuda):
    """Goal: cupy's import, which takes seconds, and the driver's calls hold nobody up; nor does closing."""
    threads = []

    def load():
        threads.append(threading.current_thread())
        return cuda

    closed = cuda.close_handle
    cuda.close_handle = lambda *where: (threads.append(threading.current_thread()), closed(*where))
    memory = SharedMemory(cuda=load)
    await memory.register_cuda("c", b"h" * 64, 0, 8)
    await memory.unregister_cuda()
    assert not cuda.open
    assert len(threads) == 2
    assert threading.current_thread() not in threads


async def test_one_name_at_the_same_time(cuda):
    """Goal: of two that register one name only one does, and the other's handle is closed."""
    memory = SharedMemory(cuda=lambda: cuda)
    refused = []

    async def register():
        try:
            await memory.register_cuda("c", b"h" * 64, 0, 8)
        except AlreadyExists as fault:
            refused.append(fault.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(register)
        nursery.start_soon(register)
    assert refused == ["shared memory region 'c' already in manager"]
    gc.collect()
    assert len(cuda.open) == 1


async def test_a_driver_that_does_not_answer(cuda, autojump_clock):
    """Goal: who registers is told, and what is opened too late is closed again."""
    released, closed = threading.Event(), threading.Event()
    opened, close = cuda.open_handle, cuda.close_handle
    cuda.open_handle = lambda *where: (released.wait(30), opened(*where))[1]
    cuda.close_handle = lambda *where: (close(*where), closed.set())
    memory = SharedMemory(cuda=lambda: cuda)
    with pytest.raises(Unavailable, match=r"^failed to register .*'c', the driver has not answered within 30 s"):
        await memory.register_cuda("c", b"h" * 64, 0, 8)
    assert memory.cuda_status() == []
    released.set()
    assert await trio.to_thread.run_sync(closed.wait, 30)
    assert not cuda.open


class Driver:
    """As much of the driver's library as is asked: one block of memory, or an error."""

    def __init__(self, base=0, size=0, status=0):
        self.answer = base, size, status

    def cuMemGetAddressRange_v2(self, base, size, address):
        base._obj.value, size._obj.value, status = self.answer
        assert address.value
        return status


@pytest.mark.parametrize(
    ("driver", "expected"),
    [(None, None), (Driver(1000, 64), 64 - 8), (Driver(1008, 64), 64), (Driver(status=1), None)],
)
def test_how_much_a_handle_reaches(driver, expected):
    """Goal: regions larger than what the client has allocated are refused where the driver tells its size."""
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=None, Device=lambda device: contextlib.nullcontext()))
    assert cuda_region._Cupy(cupy, driver).allocated(0, 1008) == expected


class LateRuntime:
    """The CUDA runtime as cupy binds it, at its latest: what goes to the device arrives when its stream is awaited."""

    memcpyHostToDevice = 1
    memcpyDeviceToHost = 2

    def __init__(self):
        self.device = np.zeros(64, np.uint8)
        self.staged = []

    def getDeviceCount(self):
        return 1

    def ipcOpenMemHandle(self, handle, flags):
        assert (handle, flags) == (b"h" * 64, 1)
        return self.device.ctypes.data

    def ipcCloseMemHandle(self, address):
        assert address == self.device.ctypes.data

    def memcpy(self, target, source, size, kind):
        if kind == self.memcpyHostToDevice:
            self.staged.append((target, ctypes.string_at(source, size)))
        else:
            ctypes.memmove(target, source, size)

    def streamSynchronize(self, stream):
        assert stream == 0
        while self.staged:
            target, data = self.staged.pop()
            ctypes.memmove(target, data, len(data))


def test_an_answer_means_that_the_outputs_are_on_the_device(monkeypatch):
    """Goal: a client that reads its region after the answer finds what was written. Method: a runtime that puts off as
    much as CUDA's documentation lets it, under the real binding."""
    runtime = LateRuntime()
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, Device=lambda device: contextlib.nullcontext()))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    cuda_region.load_cuda.cache_clear()
    try:
        memory = SharedMemory()
        trio.run(memory.register_cuda, "c", b"h" * 64, 0, 64)
        extent = memory.find(SharedMemoryRange("c", 8, 4), is_input=False)
        extent.write(b"abcd")
        assert runtime.device[8:12].tobytes() == b"abcd"
        assert bytes(extent.read()) == b"abcd"
    finally:
        cuda_region.load_cuda.cache_clear()
