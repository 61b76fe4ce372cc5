"""Asks silero_vad for each chunk of a recording, which no ensemble can: how often depends on the recording, and each
request needs what the one before has answered."""

import numpy as np
import triton_python_backend_utils as pb_utils

RATE = 16_000
CHUNK, CONTEXT = 512, 64
BEGINS, ENDS = 0.5, 0.35
"""A part begins at that probability, and ends below the other."""


class TritonPythonModel:
    """SOUND: FP32 [samples], 16 kHz, mono. PARTS: FP32 [parts, 2]."""

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """The response to one request; the error, where silero_vad has one."""
        sound = pb_utils.get_input_tensor_by_name(request, "SOUND").as_numpy()
        rate = pb_utils.Tensor("sr", np.array([RATE]))
        state = pb_utils.Tensor("state", np.zeros((2, 1, 128), np.float32))
        context = np.zeros(CONTEXT, np.float32)
        probabilities = []
        for start in range(0, len(sound) - CHUNK + 1, CHUNK):
            if request.is_cancelled():
                break  # nobody waits for the rest
            chunk = np.concatenate([context, sound[start : start + CHUNK]])
            context = chunk[-CONTEXT:]
            call = pb_utils.InferenceRequest(
                model_name="silero_vad",
                inputs=[pb_utils.Tensor("input", chunk[None]), state, rate],
                requested_output_names=["output", "stateN"],
                trace=request.trace(),
            )
            found = call.exec()
            if found.has_error():
                return pb_utils.InferenceResponse(error=found.error())
            probability = pb_utils.get_output_tensor_by_name(found, "output").as_numpy()[0, 0]
            state = pb_utils.Tensor("state", pb_utils.get_output_tensor_by_name(found, "stateN").as_numpy())
            probabilities.append(probability)
        return pb_utils.InferenceResponse([pb_utils.Tensor("PARTS", parts_of(probabilities))])


def parts_of(probabilities):
    """Begin and end of what is spoken, in seconds."""
    parts, began = [], None
    for index, probability in enumerate([*probabilities, 0.0]):
        if began is None and probability >= BEGINS:
            began = index
        elif began is not None and probability < ENDS:
            parts.append((began, index))
            began = None
    return np.array(parts, np.float32).reshape(-1, 2) * np.float32(CHUNK / RATE)
