"""Reads magika's answer. settings.json holds from which probability on a label is believed, and which labels mean text,
as Magika's own configuration says."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """SCORES: FP32 [batch, 214]; KNOWN: BYTES [batch, 1]. LABEL: BYTES [batch, 1]; SCORE: FP32 [batch, 1], 1.0 where no
    model was needed."""

    def initialize(self, args):
        here = Path(args["model_repository"])
        self.settings = json.loads((here / args["model_version"] / "settings.json").read_text())
        self.labels = (here.parent / "magika" / "labels.txt").read_text().split()

    def execute(self, requests):
        responses = []
        for request in requests:
            rows, known = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("SCORES", "KNOWN"))
            found = [
                (label.decode(), 1.0) if label else self.named(row)
                for row, label in zip(rows, known.ravel(), strict=True)
            ]
            labels = np.array([[label.encode()] for label, _ in found], np.object_)
            scores = np.array([[score] for _, score in found], np.float32)
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("LABEL", labels), pb_utils.Tensor("SCORE", scores)])
            )
        return responses

    def named(self, row):
        """The best label, if its score is high enough; else only whether this is text."""
        best = int(row.argmax())
        label, score = self.labels[best], float(row[best])
        shown = self.settings["renamed"].get(label, label)
        if score < self.settings["thresholds"].get(label, self.settings["threshold"]):
            shown = "txt" if shown in self.settings["text_labels"] else "unknown"
        return shown, score
