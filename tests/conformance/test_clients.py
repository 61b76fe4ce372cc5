"""Triton's own Python clients, blocking ones, against this project's server: what a user's program would do."""

from __future__ import annotations

import json
import queue

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}
ARRAYS = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 1, 255]], np.uint8),
    "UINT16": np.array([[0, 1, 65535]], np.uint16),
    "UINT32": np.array([[0, 1, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 1, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 0, 127]], np.int8),
    "INT16": np.array([[-(2**15), 0, 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 0, 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 0, 2**63 - 1]], np.int64),
    "FP16": np.array([[-1.5, 0, 65504]], np.float16),
    "FP32": np.array([[-1.5, np.inf, 1e-30]], np.float32),
    "FP64": np.array([[-1.5, -np.inf, 1e300]], np.float64),
    "BYTES": np.array([[b"", b"a\x00b", "ä".encode()]], np.object_),
}


@pytest.fixture(scope="module", params=list(CLIENTS))
def door(request):
    """http or grpc."""
    return request.param


@pytest.fixture
def module(door):
    """The client's module."""
    return CLIENTS[door]


@pytest.fixture
def client(door, module, server):
    """A client of the server over `models/`."""
    with module.InferenceServerClient(address(door, server)) as connected:
        yield connected


@pytest.fixture
def explicit_client(door, module, explicit_server):
    """A client of the server in explicit mode."""
    with module.InferenceServerClient(address(door, explicit_server)) as connected:
        yield connected


def address(door, running):
    """Where the door of a server is."""
    return f"127.0.0.1:{running.http_port if door == 'http' else running.grpc_port}"


def as_json(client, name, *arguments):
    """A management call's answer as JSON-like values, whichever door it came through."""
    call = getattr(client, name)
    if isinstance(client, tritonclient.grpc.InferenceServerClient):
        return call(*arguments, as_json=True)
    return call(*arguments)


def tensor(module, name, datatype, values, **options):
    """An input with its data set."""
    made = module.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, **options)
    return made


def addsub(module, value=1):
    """The inputs of `simple`, with what they should give."""
    left, right = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), value, np.int32)
    return (
        [tensor(module, "INPUT0", "INT32", left), tensor(module, "INPUT1", "INT32", right)],
        left + right,
        left - right,
    )


def test_health_and_metadata(client):
    """Goal: the calls that every client makes first."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("versioned", "3")
    assert as_json(client, "get_server_metadata")["name"] == "triton"
    metadata = as_json(client, "get_model_metadata", "simple")
    assert [str(size) for size in metadata["inputs"][0]["shape"]] == ["-1", "16"]
    config = as_json(client, "get_model_config", "simple")
    assert config.get("config", config)["max_batch_size"] == 8


@pytest.mark.parametrize("datatype", list(ARRAYS))
def test_every_datatype_comes_back(client, module, datatype):
    """Goal: binary tensors of each datatype go in and come out unchanged."""
    result = client.infer("identity_any", [tensor(module, f"IN_{datatype}", datatype, ARRAYS[datatype])])
    assert np.array_equal(result.as_numpy(f"OUT_{datatype}"), ARRAYS[datatype])


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("datatype", ["INT32", "FP32", "BYTES", "BOOL"])
def test_json_and_binary_forms_over_http(server, datatype, binary_in, binary_out):
    """Goal: the four combinations of JSON and binary tensors give the same values."""
    values = np.array([[b"a", b"bc"]], np.object_) if datatype == "BYTES" else ARRAYS[datatype][:, :1]
    module = tritonclient.http
    with module.InferenceServerClient(address("http", server)) as client:
        sent = tensor(module, f"IN_{datatype}", datatype, values, binary_data=binary_in)
        wanted = module.InferRequestedOutput(f"OUT_{datatype}", binary_data=binary_out)
        got = client.infer("identity_any", [sent], outputs=[wanted]).as_numpy(f"OUT_{datatype}")
    if datatype == "BYTES" and not binary_out:
        got = np.array([[text.encode() for text in row] for row in got], np.object_)
    assert np.array_equal(got, values)


def test_requested_outputs_and_ids(client, module):
    """Goal: only what was asked for comes back, under the request's id."""
    inputs, _, difference = addsub(module)
    outputs = [module.InferRequestedOutput("OUTPUT1")]
    result = client.infer("simple", inputs, outputs=outputs, request_id="mine", model_version="1")
    assert np.array_equal(result.as_numpy("OUTPUT1"), difference)
    assert result.as_numpy("OUTPUT0") is None
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "mine"


def test_parameters_reach_the_model(client, module):
    """Goal: custom parameters, sequence and timeout options arrive at the model."""
    one = tensor(module, "X", "INT32", np.array([[4]], np.int32))
    options = {"sequence_id": 9, "sequence_start": True, "sequence_end": True, "timeout": 77, "priority": 1}
    result = client.infer("echo", [one], parameters={"word": "x", "number": 3, "flag": True}, **options)
    seen = json.loads(result.as_numpy("SEEN")[0, 0])
    assert seen["parameters"] == {"word": "x", "number": 3, "flag": True}
    assert (seen["correlation"], seen["flags"], seen["timeout"]) == (9, 3, 77)


def test_errors_are_the_clients_exceptions(client, module):
    """Goal: a refused request raises the client's exception with the protocol's text, and the next one is served."""
    inputs, total, _ = addsub(module)
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'nope' is not found"):
        client.infer("nope", inputs)
    with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1 inputs"):
        client.infer("simple", inputs[:1])
    with pytest.raises(InferenceServerException, match="this model always fails"):
        client.infer("misbehave", [tensor(module, "HOW", "BYTES", np.array([b"raises"], np.object_))])
    assert np.array_equal(client.infer("simple", inputs).as_numpy("OUTPUT0"), total)


def test_concurrent_requests(server, door, module):
    """Goal: many requests under way at once, each with its own answer."""
    options = {"concurrency": 8} if door == "http" else {}
    with module.InferenceServerClient(address(door, server), **options) as client:
        if door == "http":
            pending = [client.async_infer("simple", addsub(module, number)[0]) for number in range(50)]
            results = [one.get_result(timeout=30) for one in pending]
        else:
            done = [queue.SimpleQueue() for _ in range(50)]
            for number, box in enumerate(done):
                client.async_infer(
                    "simple", addsub(module, number)[0], lambda result, error, box=box: box.put(error or result)
                )
            results = [box.get(timeout=30) for box in done]
    for number, result in enumerate(results):
        assert np.array_equal(result.as_numpy("OUTPUT0"), addsub(module, number)[1])


def test_stream(server):
    """Goal: a stream answers in order, carries on after a refused request, and ends when the client stops it."""
    module = tritonclient.grpc
    answers: queue.SimpleQueue = queue.SimpleQueue()
    with module.InferenceServerClient(address("grpc", server)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(3):
            client.async_stream_infer("simple", addsub(module, number)[0], request_id=str(number))
        client.async_stream_infer("nope", addsub(module)[0], request_id="bad")
        client.async_stream_infer("simple", addsub(module, 7)[0], request_id="last", enable_empty_final_response=True)
        received = [answers.get(timeout=30) for _ in range(5)]
        client.stop_stream()
    assert [result.get_response().id for result, error in received if error is None] == ["0", "1", "2", "last"]
    assert "Request for unknown model: 'nope' is not found" in str(received[3][1])
    final = received[4][0].get_response().parameters["triton_final_response"]
    assert final.bool_param
    assert np.array_equal(received[4][0].as_numpy("OUTPUT0"), addsub(module, 7)[1])


def test_compressed_grpc_requests(server):
    """Goal: gzip and deflate, as the client offers them."""
    module = tritonclient.grpc
    inputs, total, _ = addsub(module)
    with module.InferenceServerClient(address("grpc", server)) as client:
        for algorithm in ("gzip", "deflate"):
            result = client.infer("simple", inputs, compression_algorithm=algorithm)
            assert np.array_equal(result.as_numpy("OUTPUT0"), total)


def test_statistics(client, module):
    """Goal: one more request is one more in the counts."""
    before = int(as_json(client, "get_inference_statistics", "optional")["model_stats"][0].get("inference_count", 0))
    client.infer("optional", [tensor(module, "A", "FP32", np.zeros((1, 2), np.float32))])
    after = as_json(client, "get_inference_statistics", "optional")["model_stats"][0]
    assert int(after["inference_count"]) == before + 1
    assert int(after["inference_stats"]["success"]["count"]) >= 1


def test_load_index_and_unload(explicit_client, module):
    """Goal: the life of a model under a client's control, with a configuration and files of the client's own."""
    client = explicit_client

    def index():
        found = as_json(client, "get_model_repository_index")
        models = found["models"] if isinstance(found, dict) else found
        return {model["name"]: model.get("state") for model in models}

    values = tensor(module, "X", "FP32", np.array([1, 2], np.float32))
    client.load_model("plain")
    assert client.is_model_ready("plain")
    assert index()["plain"] == "READY"
    assert client.infer("plain", [values]).as_numpy("Y").tolist() == [2, 4]
    shape = {"data_type": "TYPE_FP32", "dims": [2]}
    config = {"backend": "python", "input": [{"name": "X", **shape}], "output": [{"name": "Y", **shape}]}
    text = (
        "import triton_python_backend_utils as pb_utils\n\n\n"
        "class TritonPythonModel:\n    def execute(self, requests):\n"
        "        inputs = [pb_utils.get_input_tensor_by_name(request, 'X').as_numpy() for request in requests]\n"
        "        return [pb_utils.InferenceResponse([pb_utils.Tensor('Y', array * 7)]) for array in inputs]\n"
    )
    client.load_model("plain", config=json.dumps(config), files={"file:1/model.py": text.encode()})
    assert client.infer("plain", [values]).as_numpy("Y").tolist() == [7, 14]
    with pytest.raises(InferenceServerException, match="no weights here"):
        client.load_model("broken_initialize")
    with pytest.raises(InferenceServerException, match="failed to load 'nope', failed to poll from model repository"):
        client.load_model("nope")
    client.unload_model("plain")
    with pytest.raises(InferenceServerException, match="Request for unknown model: 'plain'"):
        client.infer("plain", [values])
