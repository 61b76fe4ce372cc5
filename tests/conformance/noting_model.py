"""A model that answers with its input, after as many milliseconds as that says, and notes all that happens to it in a
file beside the repository. A negative input fails."""

import json
import os
import pathlib
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.name = args["model_instance_name"]
        self.notes = pathlib.Path(args["model_repository"]).parent.parent / "notes.jsonl"
        self.note("opened", cores=sorted(os.sched_getaffinity(0)))

    def note(self, what, **more):
        with self.notes.open("a") as file:
            file.write(json.dumps({"what": what, "instance": self.name, **more}) + "\n")

    def execute(self, requests):
        began = time.monotonic()
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            self.note(
                "request",
                of=len(requests),
                shape=list(values.shape),
                dtype=str(values.dtype),
                values=[str(value) for value in values.ravel()],
                id=request.request_id(),
            )
            if values.dtype == "int32" and values.size:
                if values.flat[0] < 0:
                    raise ValueError("cold")
                time.sleep(float(values.flat[0]) / 1000)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", values)]))
        self.note("executed", began=began, ended=time.monotonic())
        return responses
