"""Answers with all that a model is told of the sequence, and the sum over it."""

import numpy as np
import triton_python_backend_utils as pb_utils

TOLD = ("START", "END", "READY", "CORRID")


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        told = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in TOLD}
        start, end, ready, corrid = (told[name].ravel()[0] for name in TOLD)
        value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
        if ready:
            self.sums[corrid] = (0 if start > 0 else self.sums.get(corrid, 0)) + int(value.ravel()[0])
        text = f"{self.sums.get(corrid, 0)} start={start} end={end} ready={ready} corrid={corrid} "
        text += f"shape={list(told['START'].shape)} id={request.correlation_id()} flags={request.flags()}"
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.full(value.shape, text.encode(), object))])
