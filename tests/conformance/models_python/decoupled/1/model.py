"""Answers as often as there are values, from a thread; a negative one is an error."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Is done with `execute` before it has answered."""

    def initialize(self, args):
        """Nothing runs yet."""
        self.running = []

    def execute(self, requests):
        """A thread for each request."""
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            thread = threading.Thread(target=self.answer, args=(request.get_response_sender(), values))
            self.running.append(thread)
            thread.start()

    def answer(self, sender, values):
        """One answer for each value, then the flag."""
        for number, value in enumerate(values):
            if value < 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"value {number} is negative")))
                continue
            tensors = [
                pb_utils.Tensor("OUT", np.array([value], np.int32)),
                pb_utils.Tensor("NUMBER", np.array([number], np.uint32)),
            ]
            sender.send(pb_utils.InferenceResponse(tensors))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        """Lets them end."""
        for thread in self.running:
            thread.join()
