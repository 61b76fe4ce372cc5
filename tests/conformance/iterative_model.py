"""Is executed as often as its input says, and answers with all that it is told of the sequence and remembers of it."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

TOLD = ("START", "END", "READY", "CORRID", "OLD")


class TritonPythonModel:
    def initialize(self, args):
        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self.decoupled = policy.get("decoupled", False)
        self.rounds = {}

    def execute(self, requests):
        answers = [self.answer(request) for request in requests]
        return None if self.decoupled else answers

    def answer(self, request):
        id = request.correlation_id()
        value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
        rounds = self.rounds[id] = self.rounds.get(id, 0) + 1
        again = rounds < abs(value.ravel()[0])
        if again:
            request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        else:
            del self.rounds[id]
        response = self.response(request, rounds, value.shape)
        if self.decoupled:
            sender = request.get_response_sender()
            sender.send(response)
            if not again:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        elif not again or value.ravel()[0] < 0:
            return response
        return None

    def response(self, request, rounds, shape):
        told = {name: pb_utils.get_input_tensor_by_name(request, name) for name in TOLD}
        text = " ".join(f"{name}={tensor.as_numpy().ravel()}" for name, tensor in told.items() if tensor is not None)
        text = f"{rounds} {text} id={request.correlation_id()} flags={request.flags()} request={request.request_id()}"
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.full(shape, text.encode(), object))])
