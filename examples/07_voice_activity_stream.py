"""When do people talk? A recording, streamed chunk by chunk; what the model remembers of it stays in the server.

`python examples/07_voice_activity_stream.py [HOST:PORT [WAV]]` sends 16 kHz mono sound over one gRPC stream, as a
sequence: the first chunk with START, the last with END. Without a file it takes the conversation of `fetch_models.py`.

Needs `pip install 'tritonclient[grpc]'`.
"""

import queue
import sys
import wave
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

RATE = 16_000
CHUNK, CONTEXT = 512, 64
CONVERSATION = Path(__file__).resolve().parent / "sounds" / "conversation.wav"


def read(path: Path) -> np.ndarray:
    """Samples from -1 to 1."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2), "16 kHz, mono, 16 bits"
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 2**15


def speech_probabilities(client: triton.InferenceServerClient, sound: np.ndarray, sequence_id: int) -> list[float]:
    """The probability of speech in each chunk of 32 ms. All are sent before the first answer is waited for."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    context = np.zeros((1, CONTEXT), np.float32)
    starts = range(0, len(sound) - CHUNK + 1, CHUNK)
    for start in starts:
        chunk = np.concatenate([context, sound[None, start : start + CHUNK]], axis=1, dtype=np.float32)
        context = chunk[:, -CONTEXT:]
        client.async_stream_infer(
            "silero_vad_stream",
            [tensor("input", chunk), tensor("sr", np.array([RATE]))],
            sequence_id=sequence_id,
            sequence_start=start == 0,
            sequence_end=start == starts[-1],
        )
    found = []
    for _ in starts:
        result, error = answers.get(timeout=60)
        if error is not None:
            raise error
        found.append(float(result.as_numpy("output")[0, 0]))
    client.stop_stream()
    return found


def tensor(name: str, values: np.ndarray) -> triton.InferInput:
    """A request's input, with the datatype of the array."""
    made = triton.InferInput(name, list(values.shape), {"float32": "FP32", "int64": "INT64"}[values.dtype.name])
    made.set_data_from_numpy(values)
    return made


def main() -> None:
    """Prints a line for each stretch of speech."""
    address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"
    path = sys.argv[2] if len(sys.argv) > 2 else CONVERSATION
    with triton.InferenceServerClient(address) as client:
        probabilities = speech_probabilities(client, read(Path(path)), sequence_id=1)
    seconds = CHUNK / RATE
    began = None
    for index, probability in enumerate([*probabilities, 0.0]):
        if began is None and probability >= 0.5:
            began = index
        elif began is not None and probability < 0.35:
            print(f"speech from {began * seconds:6.2f} s to {index * seconds:6.2f} s")
            began = None


if __name__ == "__main__":
    main()
