"""Writes what the package silero-vad itself says of the example's conversation, chunk by chunk: voice_activity.json.

`python tests/examples/record_voice_activity.py`, where silero-vad (the version of examples/fetch_models.py) and torch
are installed. The package is asked as its users ask it: one model object for each sound, one call for each chunk.
"""

import json
import wave
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from silero_vad import load_silero_vad

HERE = Path(__file__).resolve().parent
CONVERSATION = HERE.parents[1] / "examples" / "sounds" / "conversation.wav"
RATE, CHUNK = 16_000, 512
BEGINNINGS = (0, 150_000)
"""Samples that are left out."""


def main() -> None:
    with wave.open(str(CONVERSATION)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 2**15
    said = {}
    for beginning in BEGINNINGS:
        model = load_silero_vad(onnx=True)
        chunks = range(beginning, len(sound) - CHUNK + 1, CHUNK)
        said[str(beginning)] = [
            round(float(model(torch.from_numpy(sound[start : start + CHUNK].copy()), RATE)[0, 0]), 7)
            for start in chunks
        ]
    record = {"package": f"silero-vad {version('silero-vad')}", "probabilities": said}
    (HERE / "voice_activity.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
