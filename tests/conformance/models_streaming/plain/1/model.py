"""Describes its inputs, one response to each request."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Not decoupled: what `script` is compared with."""

    def execute(self, requests):
        """Names, shapes and values of the inputs, and the parameters."""
        responses = []
        for request in requests:
            inputs = sorted((one.name(), one.shape(), one.as_numpy().tolist()) for one in request.inputs())
            out = np.array([[str(inputs).encode(), request.parameters().encode()]], np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", out)]))
        return responses
