"""Answers a request bit by bit: one response, an error or a failure to each of its steps."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for step in pb_utils.get_input_tensor_by_name(request, "STEPS").as_numpy():
                if step == b"raise":
                    raise ValueError("as asked")
                if step == b"error":
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("as asked")))
                else:
                    out = pb_utils.Tensor("OUT", np.array([step], np.object_))
                    sender.send(pb_utils.InferenceResponse([out]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
