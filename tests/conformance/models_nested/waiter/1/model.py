"""As `caller`, for what is awaited: the lines are the body of a coroutine."""

import asyncio
import json
import textwrap

import numpy as np
import triton_python_backend_utils as pb_utils


def ints(name, *values):
    """An INT32 tensor."""
    return pb_utils.Tensor(name, np.array(values, np.int32))


def call(model, inputs=(), outputs=("SUM",), **more):
    """A request to another model."""
    return pb_utils.InferenceRequest(
        model_name=model, inputs=list(inputs), requested_output_names=list(outputs), **more
    )


def how(text, rows=1):
    """The input of `odd`."""
    return [pb_utils.Tensor("HOW", np.array([[text.encode()]] * rows, np.object_))]


def config(*inputs):
    """A model's configuration."""
    entries = [{"name": name, "data_type": "TYPE_INT32", "dims": [-1]} for name in inputs]
    output = [{"name": "SUM", "data_type": "TYPE_INT32", "dims": [-1]}]
    return json.dumps({"backend": "python", "max_batch_size": 0, "input": entries, "output": output})


def shown(response):
    """An answer as text."""
    if response.has_error():
        return f"{response.error().code().name}: {response.error().message()}"
    tensors = sorted(response.output_tensors(), key=lambda tensor: tensor.name())
    return ", ".join(f"{tensor.name()}={tensor.as_numpy().tolist()}" for tensor in tensors) or "nothing"


class Say:
    """What scripts speak by."""

    def __init__(self, lines):
        self.lines = lines

    def __call__(self, value):
        """One line."""
        self.lines.append(str(value))


class TritonPythonModel:
    """Asynchronous."""

    async def execute(self, requests):
        """One answer for each request, after the other."""
        responses = []
        for request in requests:
            said = []
            script = pb_utils.get_input_tensor_by_name(request, "SCRIPT").as_numpy()[0].decode()
            names = {**globals(), "asyncio": asyncio, "say": Say(said), "request": request}
            exec("async def body():\n" + textwrap.indent(script, "    "), names)
            try:
                await names["body"]()
            except BaseException as error:
                said.append(f"{type(error).__name__}: {error}")
            array = np.array([one.encode() for one in said], np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SAID", array)]))
        return responses
