"""Answers once for each element; a negative one is an error, and -9 ends the answers with its own."""

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Decoupled."""

    def execute(self, requests):
        """The final flag comes alone, but after -9."""
        for request in requests:
            sender = request.get_response_sender()
            flags = 0
            for value in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().tolist():
                flags = FINAL if value == -9 else 0
                if -9 < value < 0:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"no {value}")))
                else:
                    sender.send(
                        pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value], np.int32))]), flags
                    )
            if not flags:
                sender.send(flags=FINAL)
