"""Large bodies go into buffers of their model's own, where it has any and is known before its request is read."""

import mmap

import numpy as np
import pytest
from despina.engine.port.buffers import ALIGNMENT, BufferPool
from despina.frontends.carrier import CARRIED_FROM

SIZE = 300_000


def asking(size, *, path=b"/v2/models/identity/infer", more=b"", told=None):
    """A request with `size` bytes behind a head whose length is no multiple of anything; `told` is what it says."""
    tensor = b'"name":"IN","datatype":"UINT8","shape":[%d],"parameters":{"binary_data_size":%d}' % (size, size)
    text = b'{"parameters":{"binary_data_output":true},"inputs":[{%b}]}' % tensor
    text += b" " * (9 - len(text) % 8)
    lengths = b"Inference-Header-Content-Length: %b\r\nContent-Length: %d\r\n"
    lengths %= b"%d" % len(text) if told is None else told, len(text) + size
    return b"POST %b HTTP/1.1\r\n%b%b\r\n%b%b" % (path, lengths, more, text, b"a" * size)


@pytest.fixture
def model(door):
    model = door.engine.models["identity"]
    model.buffers = BufferPool(1 << 26, lambda size: np.frombuffer(mmap.mmap(-1, size), np.uint8))
    return model


@pytest.mark.parametrize("size", [SIZE, 2 * CARRIED_FROM], ids=["moved by the loop", "moved by the carrier"])
async def test_a_models_own_buffers(door, model, size):
    """Goal: the second request of a form is received there, with its tensor aligned, and so is each that follows."""
    client = await door.connect()
    assert (await client.ask(asking(size))).body.endswith(b"a" * size)
    assert door.listener.pools == {door.listener.buffers}
    assert not model.buffers.kept_bytes
    for _ in range(3):
        model.is_held = True
        await client.send(asking(size))
        await door.until(lambda: model.waiting)
        view = next(iter(model.waiting[0].request.inputs.values())).memory()
        assert np.frombuffer(view, np.uint8).ctypes.data % ALIGNMENT == 0
        del view
        model.is_held = False
        model.release()
        assert (await client.reply()).body.endswith(b"a" * size)
    assert door.listener.pools == {door.listener.buffers, model.buffers}
    assert size <= model.buffers.kept_bytes <= 4 * size


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"told": b"4000000000"}, 400),
        ({"told": b"-3"}, 400),
        ({"told": b"x"}, 400),
        ({"more": b"Content-Encoding: gzip\r\n"}, 400),
        ({"path": b"/v2/models/nobody/infer"}, 404),
    ],
)
async def test_others_go_where_all_go(door, model, wrong, status):
    """Goal: what says no length of its head, is compressed, or is for nobody is received as ever, and refused."""
    client = await door.connect()
    for _ in range(3):
        assert (await client.ask(asking(SIZE))).status == 200
        door.listener.pools.clear()
        assert (await client.ask(asking(SIZE, **wrong))).status == status
        assert door.listener.pools == {door.listener.buffers}


async def test_a_client_that_leaves_amid_its_body(door, model):
    """Goal: the buffer goes back to the model's pool."""
    client = await door.connect()
    await client.ask(asking(SIZE))
    await client.send(asking(SIZE)[: SIZE // 2])
    (connection,) = door.listener.connections.values()
    await door.until(lambda: connection._pool is model.buffers)
    await client.stream.aclose()
    await door.until(lambda: model.buffers.kept_bytes)


async def test_nothing_is_kept_for_ever(open_door):
    """Goal: a model's buffers that nobody needs are freed, as the door's are; also one that was in use for so long that
    its pool had been forgotten meanwhile."""
    door = await open_door(recycled_idle=0.05)
    model = door.engine.models["identity"]
    model.buffers = BufferPool(1 << 26)
    client = await door.connect()
    for _ in range(2):
        await client.ask(asking(SIZE))
    assert model.buffers.kept_bytes
    model.is_held = True
    await client.send(asking(SIZE))
    await door.until(lambda: model.waiting)
    await door.until(lambda: not door.listener.pools)
    model.is_held = False
    model.release()
    await client.reply()
    assert model.buffers.kept_bytes
    await door.until(lambda: not (model.buffers.kept_bytes or door.listener.buffers.kept_bytes))
    await door.until(lambda: not door.listener.pools)
