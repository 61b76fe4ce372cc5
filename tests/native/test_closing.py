"""What belongs to a library is closed when nothing is in it any more: a scripted library, held while it is asked."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import trio
from despina.backends.native import model as model_module
from despina.backends.native.cache import NativeCache
from despina.backends.native.model import NativeModel
from despina.engine.port.backend import ModelContext
from despina.engine.port.host_policy import HostPolicy
from despina.schema.fault import ShuttingDown
from despina.schema.wire.generated.inference import ModelConfig

FINE = (-1, None)


class Library:
    """Notes what it is asked to close; a look-up waits until it is let go."""

    def __init__(self):
        self.closed = []
        self.asked, self.held = threading.Event(), threading.Event()

    def cache_lookup(self, address, key):
        self.asked.set()
        assert self.held.wait(10)
        return FINE, b"entry"

    def cache_close(self, address):
        self.closed.append("cache")
        return FINE

    def model_open(self, *_):
        return 1, FINE

    def model_facts(self, model):
        return "{}", 0, False

    def model_settle(self, *_):
        pass

    def model_close(self, model):
        self.closed.append("model")

    def instance_open(self, model, name, *_):
        return name, FINE

    def instance_wait(self, *_):
        self.held.wait(10)
        return []

    def instance_until_left(self, instance):
        self.closed.append(f"{instance} left")

    def instance_stop_waiting(self, instance):
        self.held.set()

    def instance_close(self, instance):
        self.closed.append(instance)


async def test_a_cache_is_closed_once_its_calls_have_returned():
    """Goal: nobody waits for a call any more, but the library is in it; one that comes later is refused."""
    library = Library()
    cache = NativeCache(library, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.lookup, "key")
        await trio.to_thread.run_sync(library.asked.wait, 10)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.close)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert library.closed == []
        library.held.set()
    assert library.closed == ["cache"]
    with pytest.raises(ShuttingDown):
        await cache.lookup("key")


def test_a_model_is_closed_after_its_last_instance(tmp_path, monkeypatch):
    """Goal: an instance that was given up, as it did not return, finds its model there when it does."""
    library = Library()
    monkeypatch.setattr(model_module, "server_of", lambda *_: None)
    model = NativeModel(library, "b", tmp_path / "libtriton_b.so", _context(tmp_path))
    one, other = (
        model.open_instance(SimpleNamespace(name=name, kind="CPU", device_id=0, host_policy=HostPolicy()))
        for name in ("one", "other")
    )
    one.close()
    model.close()
    assert library.closed == ["one left", "one"]
    other.close()
    assert library.closed == ["one left", "one", "other left", "other", "model"]


def test_a_model_without_instances_is_closed_at_once(tmp_path, monkeypatch):
    library = Library()
    monkeypatch.setattr(model_module, "server_of", lambda *_: None)
    NativeModel(library, "b", tmp_path / "libtriton_b.so", _context(tmp_path)).close()
    assert library.closed == ["model"]


def _context(folder):
    return ModelContext(
        name="m",
        version=1,
        model_path=folder,
        version_path=folder,
        config=ModelConfig(),
        auto_complete=False,
        backend_config={},
        nested=None,
    )
