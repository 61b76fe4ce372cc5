"""Models that were written for the main thread of a process of their own: what of it they find on a server's thread."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
import threading

import despina
import numpy as np
import pytest
import trio

from tests import in_process

CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_STRING dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 2 }]
"""
DECOUPLED = "model_transaction_policy { decoupled: true }"
HEAD = """
import asyncio, signal, sys, threading
import numpy as np
import triton_python_backend_utils as pb_utils
notes = sys.modules["__main__"].__dict__.setdefault("notes", [])
def answer(text):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([text], object))])
async def work():
    return "ok"
class TritonPythonModel:
"""
MEMBER = contextvars.ContextVar("MEMBER", default="nobody's")


@pytest.fixture
def opened(tmp_path):
    """`async with opened(methods) as engine`: an engine over a model of these methods."""

    def open_it(methods, more="", head=HEAD):
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(CONFIG + more)
        (tmp_path / "m" / "1" / "model.py").write_text(head + methods)
        return despina.open_engine(tmp_path, backend_config=in_process.SETTING)

    return open_it


@pytest.fixture
def notes():
    """What models leave in the list of that name."""
    yield sys.modules["__main__"].__dict__.setdefault("notes", [])
    del sys.modules["__main__"].__dict__["notes"]


async def ask(engine):
    with trio.fail_after(10):
        return (await engine.infer("m", {"IN": np.array([b"x"], object)}))["OUT"].item()


async def test_the_threads_event_loop(opened, notes):
    """It is there wherever the model asks for it, the same from loading to finalize, runs what it is given, and is
    closed with the model. Each instance has its own."""
    methods = """
    loop = asyncio.get_event_loop()
    notes.append(loop)
    @staticmethod
    def auto_complete_config(config):
        asyncio.get_event_loop().run_until_complete(work())
        return config
    def initialize(self, args):
        assert self.loop is asyncio.get_event_loop()
        self.left = self.loop.create_task(asyncio.sleep(60))
    def execute(self, requests):
        assert self.loop is asyncio.get_event_loop()
        return [answer(self.loop.run_until_complete(work())) for _ in requests]
    def finalize(self):
        assert self.loop is asyncio.get_event_loop()
        self.loop.run_until_complete(work())
        notes.append("finalized")
"""
    async with opened(methods) as engine:
        for _ in range(4):
            assert await ask(engine) == b"ok"
    loops = [note for note in notes if note != "finalized"]
    assert len(notes) - len(loops) == 2
    assert len({id(loop) for loop in loops}) == 3, "one for completing the configuration, one for each instance"
    assert all(loop.is_closed() for loop in loops)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@pytest.mark.parametrize(
    "initialize",
    [
        "asyncio.get_event_loop().close()",
        "loop, runs = asyncio.get_event_loop(), threading.Event()\n"
        "        loop.call_soon(runs.set)\n"
        "        threading.Thread(target=loop.run_forever).start()\n"
        "        runs.wait()",
        "asyncio.run(work())",
    ],
)
async def test_loops_that_a_model_has_spoilt(opened, initialize):
    """A loop that the model has closed, or runs on a thread of its own: `execute` may be a coroutine all the same, and
    unloading ends."""
    methods = f"""
    def initialize(self, args):
        {initialize}
    async def execute(self, requests):
        return [answer(await work()) for _ in requests]
"""
    with trio.fail_after(20):
        async with opened(methods) as engine:
            assert await ask(engine) == b"ok"
    for thread in threading.enumerate():
        if "run_forever" in thread.name:
            thread.join(5)
            assert not thread.is_alive()


async def test_models_that_do_not_load_leave_no_loop(opened):
    """A failed load closes what it has opened."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(despina.Fault):
        async with opened("    def initialize(self, args):\n        raise ValueError('no')\n"):
            pass
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    "call",
    ["signal.signal(signal.SIGUSR1, print)", "asyncio.get_event_loop().add_signal_handler(signal.SIGUSR1, print)"],
)
async def test_signal_handlers_need_isolation(opened, caplog, call):
    """The text says why it does not work here and where it would."""
    with pytest.raises(despina.Fault):
        async with opened(f"    def initialize(self, args):\n        {call}\n    def execute(self, requests): ...\n"):
            pass
    assert "only works in main thread of the main interpreter (models run on threads" in caplog.text
    assert "needs isolation in a process of its own" in caplog.text


async def test_context_variables_come_along(tmp_path, opened):
    """The thread on which coroutines of a decoupled model go on has the context of the one that executes."""
    head = HEAD.replace("class Tri", "from tests.unit.backends.test_python_threads import MEMBER\nclass Tri")
    methods = """
    def initialize(self, args):
        MEMBER.set("the model's")
    async def execute(self, requests):
        for request in requests:
            request.get_response_sender().send(answer(MEMBER.get()), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
    async with opened(methods, DECOUPLED, head) as engine:
        with trio.fail_after(10):
            got = [result["OUT"].item() async for result in engine.stream("m", {"IN": np.array([b"x"], object)})]
    assert got == [b"the model's"]
