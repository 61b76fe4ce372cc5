"""Asks another model twice at a time, the second time with the inputs exchanged."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """`execute` is a coroutine."""

    async def execute(self, requests):
        """Both sums and both differences."""
        return await asyncio.gather(*(self.answer(request) for request in requests))

    async def answer(self, request):
        """Of one request."""
        a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "AB")
        awaited = []
        for left, right in ((a, b), (b, a)):
            inputs = [pb_utils.Tensor("A", left), pb_utils.Tensor("B", right)]
            names = ["SUM", "DIFFERENCE"]
            awaited.append(pb_utils.InferenceRequest("", 0, inputs, names, "add_sub").async_exec())
        found = []
        for answer in await asyncio.gather(*awaited):
            if answer.has_error():
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(answer.error().message()))
            found += [pb_utils.get_output_tensor_by_name(answer, name).as_numpy().ravel() for name in names]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.concatenate(found).astype(np.float32))])
