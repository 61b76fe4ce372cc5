"""Sum and difference, as the types that the configuration says."""

import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Batches."""

    def initialize(self, args):
        """Looks the outputs' types up."""
        config = json.loads(args["model_config"])
        self.types = {
            name: pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(config, name)["data_type"])
            for name in ("SUM", "DIFFERENCE")
        }

    def execute(self, requests):
        """One response for each request."""
        responses = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "AB")
            values = {"SUM": a + b, "DIFFERENCE": a - b}
            tensors = [pb_utils.Tensor(name, value.astype(self.types[name])) for name, value in values.items()]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses
