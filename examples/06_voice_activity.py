"""Speech detection chunk by chunk; what the model remembers travels with the requests.

`python examples/06_voice_activity.py [HOST:PORT]` needs no sound file: it makes silence, a tone, and a vowel such as a
human throat would, and asks the model which of them is speech.

Needs `pip install 'tritonclient[http]'`.
"""

import sys

import numpy as np
import tritonclient.http as triton

RATE = 16_000
CHUNK, CONTEXT = 512, 64
TIME = np.arange(2 * RATE) / RATE


def vowel() -> np.ndarray:
    """An "ee" in syllables: pulses of the vocal cords around 140 Hz through three resonances of the mouth."""
    pitch = 140 * (1 + 0.1 * np.sin(2 * np.pi * 3 * TIME) + 0.02 * np.sin(2 * np.pi * 5.5 * TIME))
    sound = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    for frequency, width in ((300, 60), (2200, 90), (3000, 120)):
        radius = np.exp(-np.pi * width / RATE)
        first, second = 2 * radius * np.cos(2 * np.pi * frequency / RATE), -(radius**2)
        resonance = np.zeros(len(sound) + 2)
        for index, sample in enumerate(sound):
            resonance[index + 2] = sample + first * resonance[index + 1] + second * resonance[index]
        sound = resonance[2:]
    sound = sound * (1 - np.cos(2 * np.pi * 4 * TIME))
    return 0.5 * sound / np.abs(sound).max()


def speech_probabilities(client: triton.InferenceServerClient, sound: np.ndarray) -> list[float]:
    """The probability of speech in each chunk of 32 ms."""
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros((1, CONTEXT), np.float32)
    found = []
    for start in range(0, len(sound) - CHUNK + 1, CHUNK):
        chunk = np.concatenate([context, sound[None, start : start + CHUNK]], axis=1, dtype=np.float32)
        result = client.infer(
            "silero_vad", [tensor("input", chunk), tensor("state", state), tensor("sr", np.array([RATE]))]
        )
        state, context = result.as_numpy("stateN"), chunk[:, -CONTEXT:]
        found.append(float(result.as_numpy("output")[0, 0]))
    return found


def tensor(name: str, values: np.ndarray) -> triton.InferInput:
    """A request's input, with the datatype of the array."""
    datatype = {"float32": "FP32", "int64": "INT64"}[values.dtype.name]
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


with triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000") as server:
    sounds = {"silence": np.zeros(len(TIME)), "tone": 0.5 * np.sin(2 * np.pi * 440 * TIME), "vowel": vowel()}
    for name, sound in sounds.items():
        probabilities = speech_probabilities(server, sound)
        bars = "".join(" ▁▂▃▄▅▆▇█"[round(8 * probability)] for probability in probabilities)
        print(f"{name:8} highest {max(probabilities):.2f}  [{bars}]")
