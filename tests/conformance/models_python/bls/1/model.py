"""Hands its work to the model that it is told."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Waits for each answer."""

    def execute(self, requests):
        """The other's sum, or its error."""
        responses = []
        for request in requests:
            name = pb_utils.get_input_tensor_by_name(request, "MODEL").as_numpy()[0].decode()
            asked = pb_utils.InferenceRequest(
                model_name=name,
                requested_output_names=["SUM"],
                inputs=[tensor for tensor in request.inputs() if tensor.name() != "MODEL"],
            )
            answer = asked.exec()
            if answer.has_error():
                raise pb_utils.TritonModelException(answer.error().message())
            total = pb_utils.get_output_tensor_by_name(answer, "SUM")
            assert pb_utils.get_output_tensor_by_name(answer, "DIFFERENCE") is None
            responses.append(pb_utils.InferenceResponse([total]))
        return responses
