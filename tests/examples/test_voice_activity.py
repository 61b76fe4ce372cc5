"""One detector of speech in three frameworks' files says the same of real speech, its state kept by the server."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
import tritonclient.grpc

from tests.conformance.servers import running_despina

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
RATE, CHUNK, CONTEXT = 16_000, 512, 64
CHUNKS = 320
"""Ten seconds."""

CONFIG = """
{begin}
max_batch_size: 0
input [{{ name: "{input}" data_type: TYPE_FP32 dims: [1, {size}] }}{more}]
output [{{ name: "{output}" data_type: TYPE_FP32 dims: [1, 1] }}]
sequence_batching {{
  max_sequence_idle_microseconds: 60000000
  oldest {{ max_candidate_sequences: 4 }}
  state [{{
    input_name: "{state}" output_name: "{new_state}" data_type: TYPE_FP32 dims: [2, 1, 128]
    initial_state: {{ name: "silence" data_type: TYPE_FP32 dims: [2, 1, 128] zero_data: true }}
  }}]
}}
instance_group [{{ kind: KIND_CPU count: 1 }}]
parameters {{ key: "{threads}" value: {{ string_value: "1" }} }}
"""
NAMES = {"input": "input", "output": "output", "state": "state", "new_state": "stateN", "size": -1, "more": ""}
CONFIGS = {
    "onnx": {
        "begin": 'backend: "onnxruntime"',
        "threads": "intra_op_thread_count",
        "more": ', { name: "sr" data_type: TYPE_INT64 dims: [1] }',
    },
    "torchscript": {
        "begin": 'platform: "pytorch_libtorch"',
        "threads": "INTRA_OP_THREAD_COUNT",
        "input": "sound__0",
        "output": "speech__0",
        "state": "state__1",
        "new_state": "state__1",
    },
    "openvino": {
        "begin": 'backend: "openvino" parameters { key: "HINT_BF16" value: { string_value: "NO" } }',
        "threads": "INFERENCE_NUM_THREADS",
        "size": CHUNK + CONTEXT,
    },
}


def module_of(path):
    """The module in a file of the examples."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made  # dataclasses look there
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def repository(models, tmp_path_factory):
    """The package's ONNX file; its TorchScript file, the part for 16 kHz, which is told its memory; and the file that
    the package has for OpenVINO, as OpenVINO writes it."""
    folder = tmp_path_factory.mktemp("voice")
    for name, config in CONFIGS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(**{**NAMES, **config}))
    fetching = module_of(EXAMPLES / "fetch_models.py")
    (onnx_file,) = (file for file in fetching.FILES if file.package == "silero-vad")
    (folder / "onnx" / "1" / "model.onnx").write_bytes((models / "silero_vad" / "1" / "model.onnx").read_bytes())
    scripted, exported = folder / "scripted.pt", folder / "exported.onnx"
    for file, member in ((scripted, "silero_vad.jit"), (exported, "silero_vad_openvino_16k.onnx")):
        packaged = fetching.PackagedFile((), onnx_file.package, onnx_file.version, f"silero_vad/data/{member}", "")
        file.write_bytes(fetching.extracted(packaged))
    torch.jit.save(torch.jit.load(str(scripted))._model, str(folder / "torchscript" / "1" / "model.pt"))
    openvino.save_model(
        openvino.Core().read_model(exported), folder / "openvino" / "1" / "model.xml", compress_to_fp16=False
    )
    return folder


def test_three_frameworks_say_the_same_of_real_speech(repository, tmp_path):
    """Goal: what the package itself says, chunk by chunk, of two recordings under way at once."""
    recorded = json.loads((HERE / "voice_activity.json").read_text())["probabilities"]
    example = module_of(EXAMPLES / "07_voice_activity_stream.py")
    sound = example.read(example.CONVERSATION)
    found = {(name, beginning): [] for name in CONFIGS for beginning in recorded}
    with (
        running_despina(repository, tmp_path / "served") as server,
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        contexts = {beginning: np.zeros((1, CONTEXT), np.float32) for beginning in recorded}
        for turn in range(CHUNKS):
            for beginning in recorded:
                start = int(beginning) + turn * CHUNK
                chunk = np.concatenate([contexts[beginning], sound[None, start : start + CHUNK]], axis=1)
                contexts[beginning] = chunk[:, -CONTEXT:]
                for name, config in CONFIGS.items():
                    names = {**NAMES, **config}
                    inputs = [example.tensor(names["input"], chunk)]
                    if names["more"]:
                        inputs.append(example.tensor("sr", np.array([RATE])))
                    place = {"sequence_start": turn == 0, "sequence_end": turn == CHUNKS - 1}
                    result = client.infer(name, inputs, sequence_id=1 + int(beginning), **place)
                    found[name, beginning].append(float(result.as_numpy(names["output"])[0, 0]))
    for (name, beginning), probabilities in found.items():
        expected = recorded[beginning][:CHUNKS]
        assert max(expected) > 0.9, "somebody speaks"
        assert probabilities == pytest.approx(expected, abs=1e-4), name
