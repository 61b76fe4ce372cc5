"""Tells what a model can see of a request besides its tensors, as one JSON text."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            seen = {
                "id": request.request_id(),
                "correlation": request.correlation_id(),
                "flags": request.flags(),
                "timeout": request.timeout(),
                "outputs": sorted(request.requested_output_names()),
                "parameters": json.loads(request.parameters()),
            }
            text = np.full(value.shape, json.dumps(seen, sort_keys=True).encode(), dtype=np.object_)
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("SEEN", text), pb_utils.Tensor("X2", value * 2)])
            )
        return responses
