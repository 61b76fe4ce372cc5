"""Content in, kind of file out: prepares the input of the magika model beside it, runs it and reads its answer.

settings.json holds what Magika's own configuration says of its model: how many bytes it looks at, from which
probability on a label is believed, and which labels mean text.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """CONTENT: BYTES [batch, 1]. LABEL: BYTES [batch, 1], SCORE: FP32 [batch, 1], 1.0 where no model was needed."""

    def initialize(self, args):
        here = Path(args["model_repository"])
        self.settings = json.loads((here / args["model_version"] / "settings.json").read_text())
        magika = here.parent / "magika"
        self.labels = (magika / "labels.txt").read_text().split()
        self.session = onnxruntime.InferenceSession(magika / "1" / "model.onnx", providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """One run of the model for all requests of the batch."""
        counts, contents = [], []
        for request in requests:
            elements = pb_utils.get_input_tensor_by_name(request, "CONTENT").as_numpy().ravel()
            counts.append(len(elements))
            contents.extend(elements)
        found = self.classified(contents)
        responses, start = [], 0
        for count in counts:
            mine = found[start : start + count]
            start += count
            labels = np.array([[label.encode()] for label, _ in mine], np.object_)
            scores = np.array([[score] for _, score in mine], np.float32)
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("LABEL", labels), pb_utils.Tensor("SCORE", scores)])
            )
        return responses

    def classified(self, contents):
        """A (label, score) for each content; only what has something to look at goes through the model."""
        found = [self.short(content) for content in contents]
        undecided = [index for index, answer in enumerate(found) if answer is None]
        if undecided:
            features = np.array([self.features(contents[index]) for index in undecided], np.int32)
            (scores,) = self.session.run(["target_label"], {"bytes": features})
            for index, row in zip(undecided, scores, strict=True):
                found[index] = self.named(row)
        return found

    def short(self, content):
        """The answer for content that is too short for the model, or None. White space at the ends does not count."""
        least = self.settings["content_bytes_min"]
        block = content[: self.settings["block_bytes"]]
        if not content:
            return "empty", 1.0
        if len(content) >= least and len(block.lstrip()) >= least:
            return None
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            return "unknown", 1.0
        return "txt", 1.0

    def features(self, content):
        """Byte values: the beginning, padded behind, then the end, padded before."""
        block, padding = self.settings["block_bytes"], self.settings["padding_token"]
        begin = content[:block].lstrip()[: self.settings["begin_bytes"]]
        end = content[-block:].rstrip()[-self.settings["end_bytes"] :]
        missing_first = [padding] * (self.settings["begin_bytes"] - len(begin))
        missing_last = [padding] * (self.settings["end_bytes"] - len(end))
        return [*begin, *missing_first, *missing_last, *end]

    def named(self, row):
        """The best label, if its score is high enough; else only whether this is text."""
        best = int(row.argmax())
        label, score = self.labels[best], float(row[best])
        shown = self.settings["renamed"].get(label, label)
        if score < self.settings["thresholds"].get(label, self.settings["threshold"]):
            shown = "txt" if shown in self.settings["text_labels"] else "unknown"
        return shown, score
