"""Decoupled answers into the client's memory, by Triton's own client: as they come, and when the memory goes away."""

from __future__ import annotations

import os
import queue
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.utils.shared_memory as shm

from tests.conformance.servers import running_despina
from tests.conformance.suites import HERE

WAIT_S = 20.0
DELAY_MS = 10
"""Before each answer."""
GONE = "Invalid offset + byte size for shared memory region: 'region'"


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    """A server over `models_streaming/`."""
    with running_despina(HERE / "models_streaming", tmp_path_factory.mktemp("streaming")) as running:
        yield running


@contextmanager
def stream(server, byte_size=8):
    """A client with an open stream and a registered region, the queue of (result, error), and the region."""
    answers = queue.SimpleQueue()
    key = f"/despina_streams_{os.getpid()}_{os.urandom(4).hex()}"
    handle = shm.create_shared_memory_region("region", key, byte_size)
    try:
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            client.register_system_shared_memory("region", key, byte_size)
            client.start_stream(lambda result, error: answers.put((result, error)))
            try:
                yield client, answers, handle, "/dev/shm" + key
            finally:
                client.stop_stream(cancel_requests=True)
                client.unregister_system_shared_memory()
    finally:
        shm.destroy_shared_memory_region(handle)


def ask(client, values):
    """Each of `values` to the region's start, its index behind it."""
    inputs = []
    for name, datatype, array in (
        ("IN", "INT32", np.array(values, np.int32)),
        ("DELAY_MS", "UINT32", np.array([DELAY_MS], np.uint32)),
    ):
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    outputs = []
    for place, name in enumerate(("OUT", "INDEX")):
        outputs.append(tritonclient.grpc.InferRequestedOutput(name))
        outputs[-1].set_shared_memory("region", 4, 4 * place)
    client.async_stream_infer("repeat", inputs, outputs=outputs)


def until(answers, is_wanted):
    """The first outcome that is wanted; what was on its way before it is skipped."""
    while True:
        result, error = answers.get(timeout=WAIT_S)
        if is_wanted(error):
            return result, error


def test_each_answer_is_in_memory_when_it_is_told(streaming):
    """Goal: what the client reads on hearing of an answer is that answer, or one that came after it."""
    with stream(streaming) as (client, answers, handle, _):
        ask(client, [70, 60, 50, 40])
        for index in range(4):
            result, error = answers.get(timeout=WAIT_S)
            assert error is None
            assert list(result.get_response().raw_output_contents) == [b"", b""]
            assert shm.get_contents_as_numpy(handle, np.int32, [2])[1] >= index
        assert list(shm.get_contents_as_numpy(handle, np.int32, [2])) == [40, 3]


def test_memory_that_shrinks_between_answers(streaming):
    """Goal: answers without a place are errors in the protocol's words, later ones have their place again; the server
    and the stream live."""
    with stream(streaming) as (client, answers, handle, path):
        ask(client, range(10_000))
        for size in (4, 0):
            until(answers, lambda error: error is None)
            os.truncate(path, size)
            assert GONE in str(until(answers, lambda error: error is not None)[1])
            os.truncate(path, 8)
        until(answers, lambda error: error is None)
        assert shm.get_contents_as_numpy(handle, np.int32, [2])[1] > 0


def test_memory_that_is_unregistered_between_answers(streaming):
    """Goal: a request keeps the region that it began with; the next one does not find it."""
    with stream(streaming) as (client, answers, handle, _):
        ask(client, [7, 8, 9, 10])
        assert answers.get(timeout=WAIT_S)[1] is None
        client.unregister_system_shared_memory("region")
        for _ in range(3):
            assert answers.get(timeout=WAIT_S)[1] is None
        assert list(shm.get_contents_as_numpy(handle, np.int32, [2])) == [10, 3]
        ask(client, [4])
        assert "Unable to find shared memory region: 'region'" in str(answers.get(timeout=WAIT_S)[1])
