"""Answers a request with each value of IN in turn, DELAY_MS milliseconds before each, until it is cancelled."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sends from within execute: one request at a time."""

    def execute(self, requests):
        """As many responses as values."""
        for request in requests:
            sender = request.get_response_sender()
            delay = pb_utils.get_input_tensor_by_name(request, "DELAY_MS")
            pause = 0.0 if delay is None else float(delay.as_numpy()[0]) / 1000
            for index, value in enumerate(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()):
                time.sleep(pause)
                if sender.is_cancelled():
                    break
                tensors = [
                    pb_utils.Tensor("OUT", np.array([value], np.int32)),
                    pb_utils.Tensor("INDEX", np.array([index], np.uint32)),
                ]
                sender.send(pb_utils.InferenceResponse(tensors))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
