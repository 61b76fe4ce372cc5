"""Sequences through Triton's own clients, on both doors: the reference server's answers, recorded, and this server's.

The models answer with all they are told: controls, their shapes, ids, flags, and the sum over the sequence.
`python -m tests.conformance.test_sequences` records the reference server's answers anew.
"""

from __future__ import annotations

import json
import queue
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conformance.servers import asked_again, reference_script, running_despina, running_reference

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "sequences.json"
CONFIG = """backend: "python"
max_batch_size: %d
sequence_batching {
  max_sequence_idle_microseconds: 1500000
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
    { name: "END" control [{ kind: CONTROL_SEQUENCE_END fp32_false_true: [-1, 1] }] },
    { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true] }] },
    { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: %s }] }
  ]
  %s
}
input [{ name: "INPUT" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "OUTPUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODELS = {
    "direct": (2, "TYPE_UINT64", ""),
    "oldest": (2, "TYPE_UINT64", "oldest { max_candidate_sequences: 4 }"),
    "text": (2, "TYPE_STRING", ""),
    "narrow": (2, "TYPE_INT32", "direct {}"),
    "flat": (0, "TYPE_UINT64", ""),
}
CLIENTS = {"http": triton_http, "grpc": triton_grpc}
TEXT_IDS = "24.10 takes a string for a numeric id and fails string ids; the newest release checks and serves them"
KNOWN_DIFFERENCES = {
    "a text for a numeric id": TEXT_IDS,
    "text: START": TEXT_IDS,
    "text: END": TEXT_IDS,
    "text: a number": TEXT_IDS,
    "text: not ASCII": TEXT_IDS,
}


def sequence_models(folder):
    """A repository of the models in `folder`."""
    for name, settings in MODELS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        shutil.copy(HERE / "sequence_model.py", version / "model.py")
        (version.parent / "config.pbtxt").write_text(CONFIG % settings)
    return folder / "models"


def asked(client, module, model, id, value, *, rows=1, **flags):
    """The answer's text, or the error's."""
    values = np.full([rows, 1] if model != "flat" else [1], value, np.int32)
    tensor = module.InferInput("INPUT", list(values.shape), "INT32")
    tensor.set_data_from_numpy(values)
    try:
        result = client.infer(model, [tensor], sequence_id=id, **flags)
    except Exception as error:
        return f"error: {error}"
    return result.as_numpy("OUTPUT").ravel()[0].decode()


def answers(server, door):
    """What was asked -> what was answered, in order."""
    module = CLIENTS[door]
    client = module.InferenceServerClient(f"127.0.0.1:{server.http_port if door == 'http' else server.grpc_port}")
    start, end = {"sequence_start": True}, {"sequence_end": True}
    found = {}
    for model in ("direct", "oldest", "narrow", "flat"):
        base = 1000 if door == "http" else 2000
        ask = partial(asked, client, module, model)
        for name, id, value, flags in (
            ("START", 1, 1, start),
            ("goes on", 1, 2, {}),
            ("another START", 2, 5, start),
            ("END", 1, 3, end),
            ("another END", 2, 6, end),
            ("after its END", 1, 4, {}),
            ("without an id", -base, 1, start),
            ("START and END", 3, 1, {**start, **end}),
            ("END without START", 3, 1, end),
            ("START again", 4, 1, start),
            ("START in the middle", 4, 7, start),
            ("and its END", 4, 8, end),
            ("a large id", 2**40, 1, {**start, **end}),
            ("two rows", 5, 1, {**start, "rows": 2}),
        ):
            if name != "two rows" or model != "flat":
                found[f"{model}: {name}"] = ask(base + id, value, **flags)
            if name == "another START" and model == "flat":
                # It had the one slot when the first was silent for its idle time; its own is over a moment later.
                time.sleep(0.5)
        found[f"{model}: a text for a numeric id"] = ask("text", 1, **start)
    ask = partial(asked, client, module, "text")
    found["text: START"] = ask("a", 1, **start)
    found["text: END"] = ask("a", 2, **end)
    found["text: a number"] = ask(5, 1, **start)
    found["text: empty"] = ask("", 1, **start)
    found["text: not ASCII"] = ask("ö", 1, **start, **end)
    ask = partial(asked, client, module, "direct")
    found["silent: START"] = ask(77, 1, **start)
    time.sleep(2.5)  # the models' idle time is 1.5 s
    found["silent: too long"] = ask(77, 1)
    found["other options"] = ask(78, 1, **start, **end, priority=3, timeout=1000, request_id="r")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    with running_despina(sequence_models(folder), folder) as running:
        yield running


@pytest.mark.parametrize("door", CLIENTS)
def test_answers_equal_the_reference_servers(server, door):
    """Goal: the same controls, sums and texts as recorded, but for what is known and meant; and that differs."""
    recorded, ours = json.loads(GOLDEN.read_text())[door], answers(server, door)
    assert recorded.keys() == ours.keys()
    differing = {name for name in ours if ours[name] != recorded[name]}
    known = {name for name in ours if any(name.endswith(key) for key in KNOWN_DIFFERENCES)}
    assert differing == known, {name: (ours[name], recorded[name]) for name in differing ^ known}


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(tmp_path):
    """Goal: the recorded answers are the reference server's. Method: ask it again, until no pause of a busy machine
    was longer than its sequences' idle time."""
    recorded = json.loads(GOLDEN.read_text())
    assert asked_again(reference, recorded, tmp_path) == recorded


def test_a_stream_of_sequences(server):
    """Goal: two sequences interleaved on one gRPC stream, as Triton's example sends them: each has its sum."""
    arrived: queue.Queue = queue.Queue()
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    client.start_stream(callback=lambda result, error: arrived.put((result, error)))
    values = [11, 7, 5, 3, 2, 0, 1]
    for index, value in enumerate(values):
        for id, sign in ((3001, 1), (3002, -1)):
            tensor = triton_grpc.InferInput("INPUT", [1, 1], "INT32")
            tensor.set_data_from_numpy(np.array([[sign * value]], np.int32))
            client.async_stream_infer(
                "direct",
                [tensor],
                request_id=f"{id}_{index}",
                sequence_id=id,
                sequence_start=index == 0,
                sequence_end=index == len(values) - 1,
            )
    sums = {}
    for _ in range(2 * len(values)):
        result, error = arrived.get(timeout=10)
        assert error is None, error
        sums[result.get_response().id] = int(result.as_numpy("OUTPUT").ravel()[0].split()[0])
    client.stop_stream()
    for index in range(len(values)):
        assert sums[f"3001_{index}"] == sum(values[: index + 1]) == -sums[f"3002_{index}"]


def reference(folder: Path) -> dict[str, dict[str, str]]:
    """What the reference server says: door -> what was asked -> its answer."""
    with running_reference(sequence_models(folder), folder) as server:
        return {door: answers(server, door) for door in CLIENTS}


def record(folder: Path) -> None:
    """Writes what the reference server says."""
    GOLDEN.write_text(json.dumps(reference(folder), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        record(Path(name))
