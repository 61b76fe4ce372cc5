"""Answers with the execution that a request was in: its number and who shared it, and what the request brought."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils

NAMES = ("A", "B", "COUNT")


class TritonPythonModel:
    def initialize(self, args):
        self.count = 0

    def execute(self, requests):
        together = ",".join(request.request_id() for request in requests)
        responses = []
        for request in requests:
            found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in NAMES}
            brought = " ".join(f"{name}={found[name].as_numpy().tolist()}" for name in NAMES if found[name] is not None)
            text = f"{self.count}: {together}: {brought}"
            values = (found["A"] or found["B"]).as_numpy()
            output = pb_utils.Tensor("OUT", np.full([len(values), 1], text.encode(), object))
            responses.append(pb_utils.InferenceResponse([output]))
            time.sleep(int(values.ravel()[0]) / 1000)
        self.count += 1
        return responses
