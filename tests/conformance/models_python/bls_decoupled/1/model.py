"""Collects what a decoupled model answers."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Waits in a loop."""

    def execute(self, requests):
        """All values, and how many answers there were."""
        responses = []
        for request in requests:
            asked = pb_utils.InferenceRequest(
                model_name="decoupled",
                inputs=[pb_utils.get_input_tensor_by_name(request, "IN")],
                requested_output_names=["OUT"],
            )
            found = []
            count = 0
            for answer in asked.exec(decoupled=True):
                count += 1
                if answer.output_tensors():
                    found += pb_utils.get_output_tensor_by_name(answer, "OUT").as_numpy().tolist()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([*found, count], np.int32))]))
        return responses
