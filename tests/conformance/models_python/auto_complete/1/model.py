"""Says by itself what it takes and gives."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Has no config.pbtxt."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Two inputs, of which one may be left out, an output, batches, and one thing that is there already."""
        auto_complete_model_config.set_max_batch_size(4)
        auto_complete_model_config.set_dynamic_batching()
        auto_complete_model_config.add_input({"name": "A", "data_type": "TYPE_INT32", "dims": [-1]})
        auto_complete_model_config.add_input({"name": "B", "data_type": "TYPE_INT32", "dims": [-1], "optional": True})
        auto_complete_model_config.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [-1]})
        auto_complete_model_config.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [-1]})
        return auto_complete_model_config

    def execute(self, requests):
        """The sum of those that came."""
        responses = []
        for request in requests:
            total = sum(tensor.as_numpy() for tensor in request.inputs())
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total)]))
        return responses
