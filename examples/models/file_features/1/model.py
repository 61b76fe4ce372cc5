"""Makes magika's input of content. settings.json holds how many bytes Magika looks at, by its own configuration."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """CONTENT: BYTES [batch, 1]. FEATURES: INT32 [batch, 2048]; KNOWN: BYTES [batch, 1], the label where no model is
    needed."""

    def initialize(self, args):
        here = Path(args["model_repository"])
        self.settings = json.loads((here / args["model_version"] / "settings.json").read_text())

    def execute(self, requests):
        responses = []
        for request in requests:
            contents = pb_utils.get_input_tensor_by_name(request, "CONTENT").as_numpy().ravel()
            features = np.array([self.features(content) for content in contents], np.int32)
            known = np.array([[self.known(content)] for content in contents], np.object_)
            tensors = [pb_utils.Tensor("FEATURES", features), pb_utils.Tensor("KNOWN", known)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses

    def known(self, content):
        """The label of content that is too short for the model, or nothing. White space at the ends does not count."""
        least = self.settings["content_bytes_min"]
        block = content[: self.settings["block_bytes"]]
        if not content:
            return b"empty"
        if len(content) >= least and len(block.lstrip()) >= least:
            return b""
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            return b"unknown"
        return b"txt"

    def features(self, content):
        """Byte values: the beginning, padded behind, then the end, padded before."""
        block, padding = self.settings["block_bytes"], self.settings["padding_token"]
        begin = content[:block].lstrip()[: self.settings["begin_bytes"]]
        end = content[-block:].rstrip()[-self.settings["end_bytes"] :]
        missing_first = [padding] * (self.settings["begin_bytes"] - len(begin))
        missing_last = [padding] * (self.settings["end_bytes"] - len(end))
        return [*begin, *missing_first, *missing_last, *end]
