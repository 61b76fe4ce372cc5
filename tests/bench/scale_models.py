"""The models of scale.py: that wait when they are told to, that answer several times, and many of them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from tests.bench.models import PYTHON_IDENTITY, write_config, write_ensemble, write_python

if TYPE_CHECKING:
    from pathlib import Path

ANSWERS = 10
"""Of a stream."""
ROWS_MAX = 64
"""Of the held model's batch."""
WAITING = """import os
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

CLOSED = os.path.join(os.path.dirname(__file__), "closed")


def wait():
    while os.path.exists(CLOSED):
        time.sleep(0.005)

"""
HELD = (
    WAITING
    + """
class TritonPythonModel:
    def execute(self, requests):
        wait()
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]) for array in inputs]
"""
)
STREAMED = (
    WAITING
    + f"""
class TritonPythonModel:
    def initialize(self, args):
        self.senders, self.over, self.asked = [], False, threading.Event()
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def execute(self, requests):
        self.senders += [request.get_response_sender() for request in requests]
        self.asked.set()

    def answer(self):
        while not self.over:
            self.asked.wait()
            self.asked.clear()
            wait()
            senders, self.senders = self.senders, []
            for index in range({ANSWERS}):
                for each in range(len(senders)):
                    tensor = pb_utils.Tensor("OUTPUT0", np.array([7], np.int32))
                    senders[each].send(pb_utils.InferenceResponse([tensor]))
            while senders:
                senders.pop().send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        self.over = True
        self.asked.set()
        self.thread.join()
"""
)


def write_held(root: Path) -> None:
    """A model that may be told to wait, one that answers several times, and one to be loaded."""
    tensors = [("INPUT0", "INT32", "1")], [("OUTPUT0", "INT32", "1")]
    write_config(root, "held", "python", ROWS_MAX, *tensors, "dynamic_batching { }\n")
    write_python(root, "held", HELD)
    write_config(root, "streamed", "python", 8, *tensors, "model_transaction_policy { decoupled: true }\n")
    write_python(root, "streamed", STREAMED)
    write_config(root, "loaded", "python", 8, *tensors)
    write_python(root, "loaded", PYTHON_IDENTITY)


def write_one(root: Path, name: str, kind: str) -> None:
    """A Python model, or an ensemble."""
    if kind == "ensembles":
        write_ensemble(root, name, "simple")
    else:
        write_config(root, name, "python", 8, [("INPUT0", "FP32", "-1")], [("OUTPUT0", "FP32", "-1")])
        write_python(root, name, PYTHON_IDENTITY)


def uploaded() -> bytes:
    """A load that brings its files."""
    config = {
        "backend": "python",
        "input": [{"name": "INPUT0", "data_type": "TYPE_INT32", "dims": [1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_INT32", "dims": [1]}],
    }
    text = base64.b64encode(PYTHON_IDENTITY.encode()).decode()
    return json.dumps({"parameters": {"config": json.dumps(config), "file:1/model.py": text}}).encode()


UPLOADED = uploaded()
