"""Does what the request says. STEPS is a list in JSON of [what, value ...]; without it the inputs are described."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def texts(*values):
    """A response with these strings in OUT."""
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([one.encode() for one in values], np.object_))])


def refusal(text, code="INTERNAL"):
    """A response that is an error."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))


def half():
    """A response whose datatype JSON has no name for."""
    return pb_utils.InferenceResponse([pb_utils.Tensor("H", np.array([1.5], np.float16))])


RESPONSES = {"text": texts, "error": refusal, "half": half, "nothing": lambda: pb_utils.InferenceResponse([])}


class TritonPythonModel:
    """Sends from within execute."""

    def execute(self, requests):
        """A name that begins with last_ sends its response with the final flag; `final` sends the flag alone."""
        for request in requests:
            sender = request.get_response_sender()
            steps = pb_utils.get_input_tensor_by_name(request, "STEPS")
            if steps is None:
                for one in sorted(request.inputs(), key=lambda tensor: tensor.name()):
                    values = one.name(), request.request_id(), request.parameters(), str(one.as_numpy().tolist())
                    sender.send(texts(*values))
                sender.send(flags=FINAL)
                continue
            for what, *values in json.loads(steps.as_numpy().ravel()[0]):
                if what == "raise":
                    raise ValueError(*values)
                if what == "final":
                    sender.send(flags=FINAL)
                else:
                    sender.send(
                        RESPONSES[what.removeprefix("last_")](*values), FINAL if what.startswith("last_") else 0
                    )
