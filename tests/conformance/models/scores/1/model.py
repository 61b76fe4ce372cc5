"""Scores for the classification extension: one output with labels, one without, one that cannot be ranked."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            scores = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("Y", scores),
                        pb_utils.Tensor("NEGATED", -scores.astype(np.float64)),
                        pb_utils.Tensor("POSITIVE", scores > 0),
                    ]
                )
            )
        return responses
