"""When do people talk? One request with the whole recording: a model in the server asks another one chunk by chunk.

`python examples/08_speech_parts.py [HOST:PORT [WAV]]` sends 16 kHz mono sound to `speech_parts`, a Python model that
makes requests of its own. Without a file it takes the conversation of `fetch_models.py`.

Needs `pip install 'tritonclient[http]'`.
"""

import sys
import wave
from pathlib import Path

import numpy as np
import tritonclient.http as triton

CONVERSATION = Path(__file__).resolve().parent / "sounds" / "conversation.wav"

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
with wave.open(sys.argv[2] if len(sys.argv) > 2 else str(CONVERSATION)) as file:
    assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2), "16 kHz, mono, 16 bits"
    sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 2**15

tensor = triton.InferInput("SOUND", [len(sound)], "FP32")
tensor.set_data_from_numpy(sound)
with triton.InferenceServerClient(address, network_timeout=120) as server:
    for begin, end in server.infer("speech_parts", [tensor]).as_numpy("PARTS"):
        print(f"{begin:6.2f} s to {end:6.2f} s")
