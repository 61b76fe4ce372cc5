"""Adds, and answers with what it was told."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """SUM, DIFFERENCE and TOLD."""

    def execute(self, requests):
        """All that the request says of itself goes back in TOLD."""
        responses = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "AB")
            told = {
                "id": request.request_id(),
                "correlation_id": str(request.correlation_id()),
                "flags": request.flags(),
                "timeout": request.timeout(),
                "parameters": request.parameters(),
                "outputs": ",".join(sorted(request.requested_output_names())),
            }
            text = np.array([json.dumps(told).encode()], np.object_)
            arrays = {"SUM": a + b, "DIFFERENCE": a - b, "TOLD": text}
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])
            )
        return responses
