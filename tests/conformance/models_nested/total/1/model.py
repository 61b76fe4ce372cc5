"""The sum over a sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Of each sequence by its id."""

    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        """Begins anew with START."""
        responses = []
        for request in requests:
            id = request.correlation_id()
            if pb_utils.get_input_tensor_by_name(request, "START").as_numpy().ravel()[0]:
                self.sums[id] = 0
            self.sums[id] = self.sums.get(id, 0) + int(
                pb_utils.get_input_tensor_by_name(request, "A").as_numpy().ravel()[0]
            )
            array = np.array([[self.sums[id]]], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", array)]))
        return responses
