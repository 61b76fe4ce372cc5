"""The texts of a new model in Python: its model.py, its configuration, and a test of both."""

from __future__ import annotations

from typing import Final

MODEL: Final = '''\
"""Doubles what it is sent. Put your own in the place of `execute`."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        """Called once in each instance, before the first request. `args` are strings: model_name, model_version,
        model_repository, model_instance_kind, model_instance_device_id, and model_config, which is JSON."""
        self.factor = np.float32(2)

    def execute(self, requests):
        """Gets the requests of one batch, and returns a response for each, in their order."""
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            if not np.isfinite(values).all():
                # One bad request does not fail its neighbours.
                error = pb_utils.TritonError("INPUT has values that are not finite", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
                continue
            output = pb_utils.Tensor("OUTPUT", values * self.factor)
            responses.append(pb_utils.InferenceResponse([output]))
        return responses

    def finalize(self):
        """Called once, when the instance goes."""
'''

TEST: Final = '''\
"""The model in a real engine, as a server would run it:

    python -B -m pytest -p no:cacheprovider test_model.py     (the options leave no other directories here)
"""

from pathlib import Path

import numpy as np
import pytest
from despina import Fault, blocking

MODEL = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def engine():
    only = {"model_control_mode": "explicit", "load_model": [MODEL.name]}
    with blocking.open_engine(str(MODEL.parent), **only) as engine:
        yield engine


def test_doubles(engine):
    batch = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    result = engine.infer(MODEL.name, {"INPUT": batch}, timeout=30)
    np.testing.assert_array_equal(result["OUTPUT"], batch * 2)


def test_refuses_what_is_not_finite(engine):
    with pytest.raises(Fault, match="not finite"):
        engine.infer(MODEL.name, {"INPUT": np.array([[np.nan]], np.float32)}, timeout=30)
'''

CONFIG: Final = """
max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
"""What `MODEL` takes and gives."""
