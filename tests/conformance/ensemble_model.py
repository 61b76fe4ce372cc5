"""What the models of the ensembles in ensemble_models.py do, each by its name."""

import numpy as np
import triton_python_backend_utils as pb_utils


def tensor(request, name):
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None else found.as_numpy()


class TritonPythonModel:
    def initialize(self, args):
        self.does = getattr(self, args["model_name"])

    def execute(self, requests):
        return [self.does(request) for request in requests] if self.does != self.count else self.streamed(requests)

    def answer(self, **outputs):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])

    def add(self, request):
        return self.answer(OUTPUT=tensor(request, "INPUT") + np.int32(1))

    whole = flat = add

    def tell(self, request):
        value = tensor(request, "INPUT")
        told = f"id={request.request_id()} corrid={request.correlation_id()} flags={request.flags()} "
        told += f"parameters={request.parameters()} timeout={request.timeout()} "
        told += f"wanted={sorted(request.requested_output_names())} shape={list(value.shape)}"
        return self.answer(TOLD=np.full(value.shape, told.encode(), np.object_))

    def split(self, request):
        """Makes the second output of numbers that are not negative only."""
        value = tensor(request, "INPUT")
        outputs = {"ONE": value} | ({} if (value < 0).any() else {"TWO": value * np.int32(2)})
        wanted = request.requested_output_names()
        return self.answer(**{name: array for name, array in outputs.items() if name in wanted})

    def join(self, request):
        first, second = tensor(request, "A"), tensor(request, "B")
        return self.answer(OUTPUT=first * np.int32(100) + (np.int32(7) if second is None else second))

    def refuse(self, request):
        value = tensor(request, "INPUT")
        if (value == 2).any() or (value < 0).any():
            error = pb_utils.TritonError(f"refused {value.ravel().tolist()}", pb_utils.TritonError.UNAVAILABLE)
            return pb_utils.InferenceResponse([], error)
        return self.answer(OUTPUT=value)

    def score(self, request):
        rows = len(tensor(request, "INPUT"))
        return self.answer(SCORES=np.tile(np.array([0.25, 0.5, 0.125], np.float32), (rows, 1)))

    def streamed(self, requests):
        for request in requests:
            self.count(request)

    def count(self, request):
        """So many answers; of a negative number, an error after them."""
        number, sender = int(tensor(request, "INPUT").ravel()[0]), request.get_response_sender()
        for value in range(abs(number)):
            sender.send(self.answer(OUTPUT=np.array([[value]], np.int32)))
        if number < 0:
            sender.send(pb_utils.InferenceResponse([], pb_utils.TritonError("no more")))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
