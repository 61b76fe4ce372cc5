"""Goes wrong in the way that its input names."""

import numpy as np
import triton_python_backend_utils as pb_utils


def good(count=1):
    return [
        pb_utils.InferenceResponse(
            [pb_utils.Tensor("Y", np.zeros(2, np.float32)), pb_utils.Tensor("Z", np.zeros(1, np.int32))]
        )
        for _ in range(count)
    ]


def failed(*arguments):
    return [pb_utils.InferenceResponse(error=pb_utils.TritonError(*arguments))]


class TritonPythonModel:
    def execute(self, requests):
        how = pb_utils.get_input_tensor_by_name(requests[0], "HOW").as_numpy()[0].decode()
        return getattr(self, how)()

    def fine(self):
        return good()

    def raises(self):
        raise ValueError("this model always fails")

    def raises_empty(self):
        raise KeyError

    def raises_model_exception(self):
        raise pb_utils.TritonModelException("refused by the model")

    def error(self):
        return failed("an error without a code")

    def error_unknown(self):
        return failed("code unknown", pb_utils.TritonError.UNKNOWN)

    def error_internal(self):
        return failed("code internal", pb_utils.TritonError.INTERNAL)

    def error_not_found(self):
        return failed("code not found", pb_utils.TritonError.NOT_FOUND)

    def error_invalid_arg(self):
        return failed("code invalid arg", pb_utils.TritonError.INVALID_ARG)

    def error_unavailable(self):
        return failed("code unavailable", pb_utils.TritonError.UNAVAILABLE)

    def error_unsupported(self):
        return failed("code unsupported", pb_utils.TritonError.UNSUPPORTED)

    def error_already_exists(self):
        return failed("code already exists", pb_utils.TritonError.ALREADY_EXISTS)

    def error_cancelled(self):
        return failed("code cancelled", pb_utils.TritonError.CANCELLED)

    def error_empty(self):
        return failed("")

    def error_with_outputs(self):
        return [pb_utils.InferenceResponse(good()[0].output_tensors(), pb_utils.TritonError("outputs and error"))]

    def too_many(self):
        return good(2)

    def too_few(self):
        return []

    def none(self):
        return None

    def list_of_none(self):
        return [None]

    def not_a_list(self):
        return good()[0]

    def wrong_element(self):
        return ["text"]

    def undeclared_output(self):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("W", np.zeros(2, np.float32))])]

    def missing_output(self):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.zeros(2, np.float32))])]

    def no_outputs(self):
        return [pb_utils.InferenceResponse([])]

    def wrong_shape(self):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", np.zeros(3, np.float32)), pb_utils.Tensor("Z", np.zeros(1, np.int32))]
            )
        ]

    def wrong_datatype(self):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("Y", np.zeros(2, np.int64)), pb_utils.Tensor("Z", np.zeros(1, np.int32))]
            )
        ]

    def twice(self):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.full(2, n, np.float32)) for n in (1, 2)])]
