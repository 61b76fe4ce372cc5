"""Writes the benchmark's model repository: small and heavy ONNX models, identities and add/sub as Python models."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

THREADS = """parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "inter_op_thread_count" value: { string_value: "1" } }
"""
ON_CPU = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
PYTHON_ADDSUB = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            left = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            right = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            outputs = [pb_utils.Tensor("OUTPUT0", left + right), pb_utils.Tensor("OUTPUT1", left - right)]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""
PYTHON_IDENTITY = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", array)]) for array in inputs]
"""
PYTHON_SEQUENCE = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.begun = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            if pb_utils.get_input_tensor_by_name(request, "START").as_numpy()[0, 0]:
                self.begun[request.correlation_id()] = True
            left = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            right = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            outputs = [pb_utils.Tensor("OUTPUT0", left + right), pb_utils.Tensor("OUTPUT1", left - right)]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""
SEQUENCES = """sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] }
  ]
  %s
}
"""
SEQUENCE_MODELS = {"seq_oldest": "oldest { max_candidate_sequences: 64 }", "seq_direct": "direct { }"}
INLINE_MODELS = ("simple_inline", *(f"{name}_inline" for name in SEQUENCE_MODELS))
"""The same, executed on our trio thread. The reference server ignores the parameters that say so."""
INLINE = """parameters { key: "DESPINA_ISOLATION" value: { string_value: "none" } }
parameters { key: "DESPINA_EXECUTOR" value: { string_value: "inline" } }
"""
PYTHON_MODELS = ("simple", "identity_fp32", "identity_bytes")
ISOLATED_MODELS = {
    "isolated_identity": ("FP32", 1, PYTHON_IDENTITY),
    "isolated_addsub": ("FP32", 2, PYTHON_ADDSUB),
    "isolated_strings": ("STRING", 1, PYTHON_IDENTITY),
}
"""In processes of their own: the datatype, how many inputs and outputs, and model.py."""
ISOLATED = 'parameters { key: "DESPINA_ISOLATION" value: { string_value: "process" } }\n'
ONNX_MODELS = ("onnx_addsub", "onnx_addsub2", "onnx_addsub_single", "onnx_mlp", "onnx_conv")
WEIGHTS = 0
"""The seed of the networks' weights."""
ENSEMBLES = {"ens_simple": "simple", "ens_simple_inline": "simple_inline", "ens_onnx": "onnx_addsub"}
"""Two steps each, of that model: what comes out is twice what goes in."""


def write_models(
    root: Path,
    names: tuple[str, ...] = (
        *PYTHON_MODELS,
        *ISOLATED_MODELS,
        *SEQUENCE_MODELS,
        *INLINE_MODELS,
        *ONNX_MODELS,
        *ENSEMBLES,
    ),
) -> None:
    """Writes the named models under `root`; what is there already is overwritten."""
    random = np.random.default_rng(WEIGHTS)
    pairs = (
        [(f"INPUT{index}", "INT32", "16") for index in (0, 1)],
        [(f"OUTPUT{index}", "INT32", "16") for index in (0, 1)],
    )
    for suffix, more in (("", ""), ("_inline", INLINE)):
        if f"simple{suffix}" in names:
            write_config(root, f"simple{suffix}", "python", 8, *pairs, more)
            write_python(root, f"simple{suffix}", PYTHON_ADDSUB)
        for name, strategy in SEQUENCE_MODELS.items():
            if name + suffix in names:
                write_config(root, name + suffix, "python", 32, *pairs, SEQUENCES % strategy + more)
                write_python(root, name + suffix, PYTHON_SEQUENCE)
    for name, datatype in (("identity_fp32", "FP32"), ("identity_bytes", "STRING")):
        if name in names:
            tensors = [("INPUT0", datatype, "-1")], [("OUTPUT0", datatype, "-1")]
            write_config(root, name, "python", 64, *tensors, "dynamic_batching { }\n")
            write_python(root, name, PYTHON_IDENTITY)
    for name, (datatype, count, text) in ISOLATED_MODELS.items():
        if name in names:
            tensors = [[(f"{way}{index}", datatype, "-1") for index in range(count)] for way in ("INPUT", "OUTPUT")]
            write_config(root, name, "python", 64, *tensors, "dynamic_batching { }\n" + ISOLATED)
            write_python(root, name, text)
    for name in ("onnx_addsub", "onnx_addsub2", "onnx_addsub_single"):
        if name in names:
            batching = "" if name.endswith("single") else "dynamic_batching { }\n"
            write_config(root, name, "onnxruntime", 64, *pairs, batching + THREADS)
            write_onnx(root, name, addsub_graph())
    if "onnx_mlp" in names:
        batching = "dynamic_batching { preferred_batch_size: [ 8, 16, 32 ] }\n" + THREADS
        write_config(root, "onnx_mlp", "onnxruntime", 64, [("x", "FP32", "256")], [("y", "FP32", "256")], batching)
        write_onnx(root, "onnx_mlp", mlp_graph(random))
    if "onnx_conv" in names:
        tensors = [("input", "FP32", "3, 224, 224")], [("output", "FP32", "1000")]
        write_config(root, "onnx_conv", "onnxruntime", 8, *tensors, "dynamic_batching { }\n" + THREADS)
        write_onnx(root, "onnx_conv", conv_graph(random))
    for name, model in ENSEMBLES.items():
        if name in names:
            write_ensemble(root, name, model)


def write_ensemble(root: Path, name: str, model: str) -> None:
    """Sums and differences, and theirs."""

    def described(names: tuple[str, ...]) -> str:
        return ", ".join(f'{{ name: "{n}" data_type: TYPE_INT32 dims: [ 16 ] }}' for n in names)

    def step(sources: tuple[str, str], results: tuple[str, str]) -> str:
        maps = [f'input_map {{ key: "INPUT{i}" value: "{n}" }}' for i, n in enumerate(sources)]
        maps += [f'output_map {{ key: "OUTPUT{i}" value: "{n}" }}' for i, n in enumerate(results)]
        return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'

    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: 8\n'
        f"input [ {described(('INPUT0', 'INPUT1'))} ]\noutput [ {described(('OUTPUT0', 'OUTPUT1'))} ]\n"
        f"ensemble_scheduling {{ step [\n  {step(('INPUT0', 'INPUT1'), ('sum', 'difference'))},\n"
        f"  {step(('sum', 'difference'), ('OUTPUT0', 'OUTPUT1'))} ] }}\n"
    )


def write_config(
    root: Path,
    name: str,
    backend: str,
    batch_size_max: int,
    inputs: list[tuple[str, str, str]],
    outputs: list[tuple[str, str, str]],
    more: str = "",
) -> None:
    """config.pbtxt; tensors as (name, datatype, dims)."""

    def described(tensors: list[tuple[str, str, str]]) -> str:
        return ", ".join(f'{{ name: "{n}" data_type: TYPE_{t} dims: [ {d} ] }}' for n, t, d in tensors)

    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "{backend}"\nmax_batch_size: {batch_size_max}\n'
        f"input [ {described(inputs)} ]\noutput [ {described(outputs)} ]\n{ON_CPU}{more}"
    )


def write_python(root: Path, name: str, text: str) -> None:
    """model.py."""
    (root / name / "1" / "model.py").write_text(text)


def write_onnx(root: Path, name: str, graph: onnx.GraphProto) -> None:
    """model.onnx, checked."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(root / name / "1" / "model.onnx"))


def addsub_graph() -> onnx.GraphProto:
    """Sum and difference of two INT32 rows of 16."""

    def tensors(names: tuple[str, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 16]) for name in names]

    sources = ["INPUT0", "INPUT1"]
    nodes = [helper.make_node("Add", sources, ["OUTPUT0"]), helper.make_node("Sub", sources, ["OUTPUT1"])]
    return helper.make_graph(nodes, "addsub", tensors(("INPUT0", "INPUT1")), tensors(("OUTPUT0", "OUTPUT1")))


def mlp_graph(random: np.random.Generator) -> onnx.GraphProto:
    """Two dense layers of 256."""
    weights = [constant(f"w{n}", weight) for n, weight in enumerate(mlp_weights(random), 1)]
    biases = [constant(f"b{n}", np.zeros(256)) for n in (1, 2)]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["dense"]),
        helper.make_node("Relu", ["dense"], ["positive"]),
        helper.make_node("Gemm", ["positive", "w2", "b2"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 256])] for name in ("x", "y")]
    return helper.make_graph(nodes, "mlp", *ends, weights + biases)


def mlp_weights(random: np.random.Generator) -> list[np.ndarray]:
    """Of the two layers."""
    return [random.standard_normal((256, 256)) / 16 for _ in range(2)]


@functools.cache
def _weights() -> list[np.ndarray]:
    return mlp_weights(np.random.default_rng(WEIGHTS))


def mlp_answers(rows: np.ndarray) -> np.ndarray:
    """What onnx_mlp makes of them."""
    first, second = _weights()
    answers: np.ndarray = np.maximum(rows @ first, 0) @ second
    return answers.astype(np.float32)


def conv_graph(random: np.random.Generator) -> onnx.GraphProto:
    """A residual network of eight blocks, about half a GFLOP an image."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def convolution(source: str, channels: tuple[int, int], size: int, stride: int, name: str) -> str:
        wide_in, wide_out = channels
        scale = np.sqrt(2 / (wide_in * size * size))
        constants.append(constant(f"{name}.w", random.standard_normal((wide_out, wide_in, size, size)) * scale))
        shape = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [size // 2] * 4}
        nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [name], **shape))
        return name

    def step(kind: str, sources: list[str], name: str, **attributes: int) -> str:
        nodes.append(helper.make_node(kind, sources, [name], **attributes))
        return name

    current, wide = step("Relu", [convolution("input", (3, 16), 7, 4, "stem")], "stem.relu"), 16
    for stage, (channels, first_stride) in enumerate([(24, 1), (48, 2), (96, 2), (192, 2)]):
        for block in range(2):
            name, stride = f"s{stage}b{block}", first_stride if block == 0 else 1
            inner = step("Relu", [convolution(current, (wide, channels), 3, stride, f"{name}.a")], f"{name}.a.relu")
            inner = convolution(inner, (channels, channels), 3, 1, f"{name}.b")
            if wide != channels:
                current = convolution(current, (wide, channels), 1, stride, f"{name}.side")
            current = step("Relu", [step("Add", [inner, current], f"{name}.sum")], f"{name}.out")
            wide = channels
    flat = step("Flatten", [step("GlobalAveragePool", [current], "pooled")], "flat", axis=1)
    constants += [constant("head.w", random.standard_normal((wide, 1000)) / 14), constant("head.b", np.zeros(1000))]
    step("Gemm", [flat, "head.w", "head.b"], "output")
    ends = [("input", ["batch", 3, 224, 224]), ("output", ["batch", 1000])]
    return helper.make_graph(
        nodes, "conv", *([helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in ends), constants
    )


def constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    """A weight of the model, as FP32."""
    return numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
