"""Does the task that each request names."""

import pathlib
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.naps = pathlib.Path(args["model_repository"]) / "naps"

    def execute(self, requests):
        """`raise` fails the execution, `error` its request; `nap <seconds>` leaves a trace and takes that long."""
        responses = []
        for request in requests:
            tasks = pb_utils.get_input_tensor_by_name(request, "TASK")
            what, _, value = tasks.as_numpy().ravel()[0].decode().partition(" ")
            if what == "raise":
                raise ValueError("as asked")
            if what == "error":
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("as asked")))
                continue
            if what == "nap":
                with self.naps.open("a") as file:
                    file.write("z")
                time.sleep(float(value))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("DONE", tasks.as_numpy())]))
        return responses
