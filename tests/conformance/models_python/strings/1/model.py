"""Strings in, strings and numbers out."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Of any length and any bytes."""

    def execute(self, requests):
        """As objects, or fixed-width where that is asked for."""
        responses = []
        for request in requests:
            words = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            upper = np.array([word.decode().upper() for word in words.ravel()], np.object_).reshape(words.shape)
            lengths = np.array([len(word) for word in words.ravel()], np.int32).reshape(words.shape)
            tensors = [pb_utils.Tensor("UPPER", upper), pb_utils.Tensor("LENGTHS", lengths)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
