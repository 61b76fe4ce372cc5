import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            scores = pb_utils.Tensor("SCORES", np.array([0.25, 0.5, 0.125], np.float32))
            parameters = {"count": len(text), "first": text[0].decode(), "even": len(text) % 2 == 0}
            responses.append(pb_utils.InferenceResponse([scores, pb_utils.Tensor("TEXT", text)], parameters=parameters))
        return responses
