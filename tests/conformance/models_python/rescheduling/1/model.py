"""Is executed as often as its input says before it answers."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Of iterative sequences."""

    def initialize(self, args):
        """Nobody is under way."""
        self.rounds = {}

    def execute(self, requests):
        """None for those that come once more."""
        responses = []
        for request in requests:
            left = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]
            key = request.request_id()
            rounds = self.rounds[key] = self.rounds.get(key, 0) + 1
            if rounds < left:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                responses.append(None)
                continue
            del self.rounds[key]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([rounds], np.int32))]))
        return responses
