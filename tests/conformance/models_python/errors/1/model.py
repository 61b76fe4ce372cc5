"""Fails in the way that it is told."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """A request that fails alone does not touch its neighbours; one that raises takes the batch along."""

    def execute(self, requests):
        """What is said, or what goes wrong."""
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "HOW")
            how = tensor.as_numpy().ravel()[0].decode()
            if how == "raise":
                raise ValueError("it was told to")
            if how == "raise ours":
                raise pb_utils.TritonModelException("it was told to, in Triton's words")
            if how == "too few":
                continue
            if how == "no response":
                responses.append("text")
                continue
            error = None
            if how == "error":
                error = pb_utils.TritonError("this one failed")
            elif how.isupper():
                error = pb_utils.TritonError(f"failed as {how}", getattr(pb_utils.TritonError, how))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", tensor.as_numpy())], error=error))
        return responses
