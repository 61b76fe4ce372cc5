"""Iterative and decoupled sequences and what is kept of them, through Triton's own client: the reference server's
answers, recorded, and this server's. `python -m tests.conformance.test_iterative_sequences` records them anew.
"""

from __future__ import annotations

import json
import queue
import shutil
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.conformance.servers import (
    asked_again,
    reference_script,
    running_despina,
    running_in_process,
    running_reference,
)

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "iterative_sequences.json"
CONFIG = """backend: "python"
max_batch_size: %d
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
    { name: "END" control [{ kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }] },
    { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }] },
    { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
  %s
}
input [{ name: "INPUT" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "OUTPUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
ITERATIVE = "iterative_sequence: true "
STATE = 'state [{ input_name: "OLD" output_name: "NEW" data_type: TYPE_%s dims: [2] %s }]'
INITIAL = 'initial_state: { data_type: TYPE_%s dims: [2] name: "first" %s }'
DECOUPLED = "\nmodel_transaction_policy { decoupled: true }"
MODELS = {
    "direct": (2, ITERATIVE),
    "oldest": (2, ITERATIVE + "oldest { max_candidate_sequences: 4 }"),
    "flat": (0, ITERATIVE),
    "stream": (2, ITERATIVE + STATE % ("INT32", INITIAL % ("INT32", "zero_data: true"))),
    "sequence": (2, ""),
    "file": (2, STATE % ("INT32", INITIAL % ("INT32", 'data_file: "numbers"'))),
    "zero": (2, STATE % ("FP32", INITIAL % ("FP32", "zero_data: true"))),
}
STREAMS = ("stream", "sequence")
STATISTICS = "it counts each execution as a success, and the end of each sequence as a failure; here requests count"
KNOWN_DIFFERENCES = {"successes and failures": STATISTICS}


def iterative_models(folder):
    """A repository of the models in `folder`."""
    for name, (rows, more) in MODELS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        shutil.copy(HERE / "iterative_model.py", version / "model.py")
        (version.parent / "config.pbtxt").write_text(CONFIG % (rows, more) + (DECOUPLED if name in STREAMS else ""))
        if "data_file" in more:
            (version.parent / "initial_state").mkdir()
            (version.parent / "initial_state" / "numbers").write_bytes(np.array([5, 6], np.int32).tobytes())
    return folder / "models"


def asked(client, model, value, **flags):
    """The texts of all answers to one request, None for one without outputs; or the error's."""
    values = np.full([1] if model == "flat" else [1, 1], value, np.int32)
    tensor = triton.InferInput("INPUT", list(values.shape), "INT32")
    tensor.set_data_from_numpy(values)
    arrived: queue.Queue = queue.Queue()
    client.start_stream(callback=lambda result, error: arrived.put((result, error)))
    client.async_stream_infer(model, [tensor], request_id="r", enable_empty_final_response=True, **flags)
    texts = []
    while True:
        result, error = arrived.get(timeout=10)
        if error is not None:
            texts.append(f"error: {error}".split("found type")[0])
            break
        output = result.as_numpy("OUTPUT")
        texts.append(None if output is None else output.ravel()[0].decode())
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    client.stop_stream()
    return texts


def answers(server):
    """What was asked -> what was answered, in order."""
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    start, end = {"sequence_start": True}, {"sequence_end": True}
    found = {}
    for model in ("direct", "oldest", "flat", "stream"):
        found[f"{model}: three times"] = asked(client, model, 3)
        found[f"{model}: once"] = asked(client, model, 1)
        found[f"{model}: with START"] = asked(client, model, 2, **start)
        found[f"{model}: an id"] = asked(client, model, 2, sequence_id=77, **start)
        found[f"{model}: an id without START"] = asked(client, model, 2, sequence_id=78)
        statistics = client.get_inference_statistics(model).model_stats[0]
        found[f"{model}: executions"] = [statistics.inference_count, statistics.execution_count]
        found[f"{model}: successes and failures"] = [
            statistics.inference_stats.success.count,
            statistics.inference_stats.fail.count,
        ]
        if model != "stream":
            found[f"{model}: answered and released"] = asked(client, model, -2)
    for model in ("sequence", "file", "zero"):
        found[f"{model}: START"] = asked(client, model, 1, sequence_id=5, **start)
        found[f"{model}: goes on"] = asked(client, model, 1, sequence_id=5)
        found[f"{model}: END"] = asked(client, model, 1, sequence_id=5, **end)
        found[f"{model}: after its END"] = asked(client, model, 1, sequence_id=5)
    return found


@pytest.fixture(scope="module", params=[running_despina, running_in_process], ids=["process", "none"])
def server(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("iterative")
    with request.param(iterative_models(folder), folder) as running:
        yield running


def test_answers_equal_the_reference_servers(server):
    """Goal: the same answers, controls, ids and states as recorded, but for what is known and meant."""
    recorded, ours = json.loads(GOLDEN.read_text()), answers(server)
    assert recorded.keys() == ours.keys()
    differing = {name for name in ours if ours[name] != recorded[name]}
    known = {name for name in ours if any(name.endswith(key) for key in KNOWN_DIFFERENCES)}
    assert differing == known, {name: (ours[name], recorded[name]) for name in differing ^ known}


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(tmp_path):
    """Goal: the recorded answers are the reference server's. Method: ask it again."""
    recorded = json.loads(GOLDEN.read_text())
    assert asked_again(reference, recorded, tmp_path) == recorded


def reference(folder: Path) -> dict:
    with running_reference(iterative_models(folder), folder) as server:
        return answers(server)


def record(folder: Path) -> None:
    """Writes what the reference server says."""
    GOLDEN.write_text(json.dumps(reference(folder), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        record(Path(name))
