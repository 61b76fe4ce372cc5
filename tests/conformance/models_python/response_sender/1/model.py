"""An ordinary model that answers through the sender, and says what it is refused."""

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def response(text):
    """One with this text."""
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([text.encode()], np.object_))])


class TritonPythonModel:
    """Sends before `execute` returns."""

    def execute(self, requests):
        """None: all was said."""
        for request in requests:
            how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy()[0].decode()
            sender = request.get_response_sender()
            text = how
            if how == "flags only":
                text = self.refused(sender, None, FINAL)
            elif how == "wrong flags":
                text = self.refused(sender, response(how), 7)
            sender.send(response(text), FINAL)
        return None

    def refused(self, sender, *said):
        """The error's text."""
        try:
            sender.send(*said)
        except Exception as error:
            return str(error)
        return "it was sent"
