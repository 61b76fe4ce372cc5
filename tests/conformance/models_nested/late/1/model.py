"""Answers from a thread after execute has returned, in the way that it is asked to."""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def text(value):
    """A response with this string."""
    return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", np.array([value.encode()], np.object_))])


class TritonPythonModel:
    """Not decoupled."""

    def execute(self, requests):
        """None stands for an answer that comes later."""
        responses = []
        for request in requests:
            how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy()[0].decode()
            if how == "now":
                responses.append(text(how))
                continue
            threading.Thread(target=self.answer, args=(request.get_response_sender(), how)).start()
            responses.append(None)
        return responses if len(responses) != 1 or responses[0] is not None or how == "list" else None

    def answer(self, sender, how):
        """A little later."""
        time.sleep(0.1)
        if how == "error":
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("late error")), FINAL)
            return
        if how == "flag first":
            try:
                sender.send(flags=FINAL)
            except Exception as error:
                how = str(error)
        sender.send(text(how), FINAL if how != "two sends" else 0)
        if how == "two sends":
            sender.send(flags=FINAL)
