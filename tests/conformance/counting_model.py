"""A model whose answers show whether they were made anew: each says how many executions there were."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.executions = 0

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        self.executions += 1
        values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        if values.size and values.dtype == np.float32 and values.ravel()[0] < 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero"))
        shape = [values.shape[0], 1] if values.ndim > 1 else [1]
        outputs = [pb_utils.Tensor("COUNT", np.full(shape, self.executions, np.int32))]
        if "OUT" in request.requested_output_names():
            outputs.insert(0, pb_utils.Tensor("OUT", values))
        return pb_utils.InferenceResponse(outputs)
