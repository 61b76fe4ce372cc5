"""What doors remember of requests outlives no model."""

import gc
import json
import weakref

import numpy as np
import pytest
import trio
from tritonclient.grpc import service_pb2

from tests.doors import both_doors
from tests.fakes import FakeBackend, write_model
from tests.repeated_calls import INFER, watched_memory

TENSOR = {"name": "IN", "datatype": "INT32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
HEAD = json.dumps({"inputs": [TENSOR], "parameters": {"binary_data_output": True}}).encode()
FIELDS = f"Inference-Header-Content-Length: {len(HEAD)}\r\n"


async def ask_http(caller, value):
    answer, body = await caller.ask("/v2/models/m/infer", HEAD + np.int32(value).tobytes(), FIELDS)
    if answer.startswith(b"HTTP/1.1 200"):
        assert body.endswith(np.int32(value).tobytes())
    return answer.startswith(b"HTTP/1.1 200")


async def ask_grpc(caller, value):
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="IN", datatype="INT32", shape=[1, 1])
    message.raw_input_contents.append(np.int32(value).tobytes())
    answer, headers = await caller.ask(INFER, message.SerializeToString())
    if headers["grpc-status"] == "0":
        assert answer.endswith(np.int32(value).tobytes())
    return headers["grpc-status"] == "0"


@pytest.fixture
def uses(monkeypatch):
    """Of what is remembered, one after the other."""
    return watched_memory(monkeypatch)


async def until_gone(*references):
    """The model's own task and thread end a little after the command."""
    with trio.fail_after(20):
        while any(reference() is not None for reference in references):
            await trio.sleep(0.01)
            gc.collect()


@pytest.mark.interpreted
@pytest.mark.parametrize("how", ["unload", "reload"])
@pytest.mark.parametrize("inline", [True, False])
async def test_a_model_is_not_kept_by_idle_connections(tmp_path, uses, how, inline):
    """Goal: after an unload, or another load in its place, nothing of the old version is left, though clients whose
    requests are remembered are still connected and say nothing more; they are served what is there when they ask."""
    more = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }' if inline else ""
    write_model(tmp_path, "m", more=more)
    backend = FakeBackend(asynchronous=False, movable=inline)
    options = {"backends": {"fake": backend}, "model_control_mode": "explicit", "load_model": ("m",)}
    async with both_doors(tmp_path, **options) as doors:
        engine = doors.engine
        callers = [(ask_http, await doors.http_caller()) for _ in range(3)]
        callers += [(ask_grpc, await doors.grpc_caller()) for _ in range(3)]
        for value in range(6):
            for ask, caller in callers:
                assert await ask(caller, value)
        assert min(map(uses.count, ("frame", "call"))) >= 6
        model = engine.model("m")
        version, admission = weakref.ref(model), weakref.ref(model.admission)
        del model
        if how == "unload":
            await engine.unload("m")
        else:
            write_model(tmp_path, "m", max_batch_size=4, more=more)
            await engine.load("m")
        await until_gone(version, admission)
        for ask, caller in callers:
            assert await ask(caller, 9) == (how == "reload")


@pytest.mark.interpreted
async def test_an_answer_that_is_owed_when_the_model_goes(tmp_path, uses):
    """Goal: a request in flight is answered by the version that took it, and that is let go then."""
    write_model(tmp_path, "m")
    backend = FakeBackend()
    options = {"backends": {"fake": backend}, "model_control_mode": "explicit", "load_model": ("m",)}
    async with both_doors(tmp_path, **options) as doors:
        engine = doors.engine
        callers = [(ask_http, await doors.http_caller()), (ask_grpc, await doors.grpc_caller())]
        for value in range(6):
            for ask, caller in callers:
                assert await ask(caller, value)
        count = uses.count("frame") + uses.count("call")
        version = weakref.ref(engine.model("m"))
        backend.cost_s = 0.2
        async with trio.open_nursery() as nursery:
            answered = []

            async def ask_late(ask, caller):
                answered.append(await ask(caller, 7))

            for ask, caller in callers:
                nursery.start_soon(ask_late, ask, caller)
            with trio.fail_after(5):
                while uses.count("frame") + uses.count("call") < count + 2:  # noqa: ASYNC110  the doors have no event for this
                    await trio.sleep(0.001)
            nursery.start_soon(engine.unload, "m")
        assert answered == [True, True]
        assert uses.count("frame") + uses.count("call") == count + 2
        await until_gone(version)
        for ask, caller in callers:
            assert not await ask(caller, 9)
