"""Fails in the way that it is asked to."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """HOW is `raise`, `nothing`, `echo`, or the name of an error code."""

    def execute(self, requests):
        """For each request."""
        responses = []
        for request in requests:
            how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy().ravel()[0].decode()
            if how == "raise":
                raise ValueError("as asked")
            if how == "nothing":
                responses.append(pb_utils.InferenceResponse([]))
            elif how == "echo":
                array = np.array([[how.encode()]], np.object_)
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", array)]))
            else:
                error = pb_utils.TritonError(f"it is {how}", getattr(pb_utils.TritonError, how))
                responses.append(pb_utils.InferenceResponse(error=error))
        return responses
