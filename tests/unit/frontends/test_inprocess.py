"""Programs written for Triton's in-process package, with the import changed."""

from __future__ import annotations

import asyncio
import queue

import despina.frontends.inprocess as tritonserver
import numpy as np
import pytest

from tests.capi.compiling import MODELS

ISOLATED = {"python": {"isolation": "none"}}


@pytest.fixture(scope="module")
def server():
    options = tritonserver.Options(
        model_repository=str(MODELS),
        model_control_mode=tritonserver.ModelControlMode.EXPLICIT,
        startup_models=["identity", "repeat", "labelled"],
        server_id="inside",
        backend_configuration=ISOLATED,
    )
    server = tritonserver.Server(options).start(wait_until_ready=True)
    yield server
    server.stop()


def test_life():
    """Goal: the texts of the package where a server is asked too early, too late, or without models."""
    with pytest.raises(tritonserver.InvalidArgumentError, match="Model repository must be specified"):
        tritonserver.Server().start()
    server = tritonserver.Server(model_repository=str(MODELS), model_control_mode=2)
    with pytest.raises(tritonserver.InvalidArgumentError, match="Server not started"):
        server.ready()
    assert server.start().live()
    with pytest.raises(tritonserver.InvalidArgumentError, match="Server already started"):
        server.start()
    server.stop()
    with pytest.raises(tritonserver.InvalidArgumentError, match="Server not started"):
        server.live()


def test_one_answer(server):
    model = server.model("identity")
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    for given in (values, tritonserver.Tensor.from_dlpack(values)):
        (response,) = model.infer(inputs={"INPUT0": given}, request_id="a")
        assert (response.final, response.error, response.request_id) == (True, None, "a")
        np.testing.assert_array_equal(np.from_dlpack(response.outputs["OUTPUT0"]), values)
    assert response.outputs["OUTPUT0"].data_type is tritonserver.DataType.FP32


def test_text(server):
    (response,) = server.model("labelled").infer(inputs={"TEXT": ["a", "bc"]})
    assert list(response.outputs["TEXT"].to_string_array()) == ["a", "bc"]
    assert response.parameters == {"count": 2, "first": "a", "even": True}


def test_many_answers(server):
    """Goal: in order, then the end; every one into the request's queue, too; also for asyncio."""
    model = server.model("repeat")
    copies = queue.Queue()
    count = {"COUNT": np.array([200], np.int32)}
    responses = list(model.infer(inputs=count, response_queue=copies))
    assert [response.final for response in responses] == [False] * 200 + [True]
    assert [int(response.outputs["INDEX"].numpy()[0]) for response in responses[:-1]] == list(range(200))
    assert copies.qsize() == 201

    async def asynchronously():
        return [response.final async for response in model.async_infer(inputs={"COUNT": np.array([2], np.int32)})]

    assert asyncio.run(asynchronously()) == [False, False, True]


def test_leaving(server):
    """Goal: who cancels hears so at once, whatever the model does; its thread ends."""
    responses = server.model("repeat").infer(inputs={"COUNT": np.array([5_000], np.int32)}, raise_on_error=False)
    next(responses)
    responses.cancel()
    (last,) = responses
    assert last.final
    assert str(last.error) == "request cancelled"


def test_errors(server):
    with pytest.raises(tritonserver.InvalidArgumentError, match="expected 1 inputs but got 0 inputs"):
        next(server.model("identity").infer())
    (response,) = server.model("nobody").infer(raise_on_error=False)
    assert isinstance(response.error, tritonserver.NotFoundError)
    with pytest.raises(tritonserver.InvalidArgumentError, match="does not support DLPack"):
        server.model("identity").infer(inputs={"INPUT0": object()})


def test_models(server):
    assert server.metadata()["name"] == "inside"
    assert server.models(exclude_not_ready=True)["identity", 1].state == "READY"
    assert "slow" in server.models()
    slow = server.load("slow")
    assert slow.ready()
    assert slow.config()["backend"] == "python"
    assert (slow.batch_properties(), slow.transaction_properties()) == (1, 1)
    assert server.model("repeat").transaction_properties() == 2
    server.unload(slow, wait_until_unloaded=True)
    assert not slow.ready()
    with pytest.raises(tritonserver.InternalError, match="failed to load 'nobody'"):
        server.load("nobody")
    assert 'nv_inference_request_success{model="identity",version="1"}' in server.metrics()
    assert server.model("identity").statistics()["model_stats"][0]["name"] == "identity"
