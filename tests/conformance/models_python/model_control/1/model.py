"""Loads and unloads another model."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """While it executes."""

    def execute(self, requests):
        """Whether the other was ready before, loaded, and unloaded."""
        responses = []
        for request in requests:
            name = pb_utils.get_input_tensor_by_name(request, "DO").as_numpy()[0].decode()
            ready = [pb_utils.is_model_ready(name)]
            pb_utils.load_model(name)
            ready.append(pb_utils.is_model_ready(name, "1"))
            pb_utils.unload_model(name)
            ready.append(pb_utils.is_model_ready(name))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("READY", np.array(ready))]))
        return responses
