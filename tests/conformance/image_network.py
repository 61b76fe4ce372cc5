"""One small image network, its weights from a seed, as a model of each framework: what a team has that changes tools.

image [2, 8, 8] -> convolution, ReLU, average pooling, a dense layer -> scores [5]. Each maker writes a version's file.
"""

from __future__ import annotations

import numpy as np
import onnx
import openvino
import torch
from onnx import TensorProto, helper

_SEEDED = np.random.default_rng(11)
KERNEL = _SEEDED.standard_normal((4, 2, 3, 3)).astype(np.float32)
DENSE = _SEEDED.standard_normal((4 * 4 * 4, 5)).astype(np.float32)
BIAS = _SEEDED.standard_normal(5).astype(np.float32)
IMAGES = _SEEDED.standard_normal((3, 2, 8, 8)).astype(np.float32)

CONFIG = """
{}
max_batch_size: 8
input [{{ name: "image" data_type: TYPE_FP32 dims: [2, 8, 8] }}]
output [{{ name: "scores" data_type: TYPE_FP32 dims: [5] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""


def scores(images):
    """By numpy alone, in double precision."""
    padded = np.pad(images.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    convolved = np.einsum("nchwij,ocij->nohw", windows, KERNEL)
    pooled = np.maximum(convolved, 0).reshape(len(images), 4, 4, 2, 4, 2).mean((3, 5))
    return pooled.reshape(len(images), -1) @ DENSE + BIAS


def onnx_file(folder, name="model.onnx"):
    weights = {"kernel": KERNEL, "dense": DENSE, "bias": BIAS}
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("AveragePool", ["positive"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "image",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [onnx.numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / name)


def intermediate_representation(folder):
    onnx_file(folder, "image.onnx")
    openvino.save_model(openvino.Core().read_model(folder / "image.onnx"), folder / "model.xml", compress_to_fp16=False)
    (folder / "image.onnx").unlink()


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.dense = torch.nn.Linear(64, 5)
        self.convolution.weight.data = torch.from_numpy(KERNEL.copy())
        self.dense.weight.data = torch.from_numpy(DENSE.T.copy())
        self.dense.bias.data = torch.from_numpy(BIAS.copy())

    def forward(self, image):
        pooled = torch.nn.functional.avg_pool2d(torch.relu(self.convolution(image)), 2)
        return self.dense(torch.flatten(pooled, 1))


def torch_script(folder):
    torch.jit.trace(Network().eval(), (torch.zeros(2, 2, 8, 8),)).save(str(folder / "model.pt"))


def exported_program(folder):
    batch = torch.export.Dim("batch", max=8)
    program = torch.export.export(Network().eval(), (torch.zeros(2, 2, 8, 8),), dynamic_shapes={"image": {0: batch}})
    torch.export.save(program, str(folder / "model.pt2"))


def _tensorflow(image, kernel, dense, bias):
    """TensorFlow's kernels for processors take channels last."""
    import tensorflow as tf

    convolved = tf.nn.conv2d(tf.transpose(image, (0, 2, 3, 1)), kernel, 1, "SAME")
    pooled = tf.transpose(tf.nn.avg_pool2d(tf.nn.relu(convolved), 2, 2, "VALID"), (0, 3, 1, 2))
    return tf.matmul(tf.reshape(pooled, (-1, 64)), dense) + bias


def saved_model(folder):
    import tensorflow as tf

    module = tf.Module()
    module.weights = [tf.Variable(array) for array in (KERNEL.transpose(2, 3, 1, 0), DENSE, BIAS)]

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 8, 8], tf.float32, name="image")])
    def serve(image):
        return {"scores": _tensorflow(image, *module.weights)}

    tf.saved_model.save(module, str(folder / "model.savedmodel"), serve)


def graph_definition(folder):
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [None, 2, 8, 8], name="image")
        found = _tensorflow(image, *(tf.constant(array) for array in (KERNEL.transpose(2, 3, 1, 0), DENSE, BIAS)))
        tf.identity(found, name="scores")
    (folder / "model.graphdef").write_bytes(graph.as_graph_def().SerializeToString())


MAKERS = {
    "onnx": (onnx_file, 'backend: "onnxruntime"'),
    "openvino": (
        intermediate_representation,
        'backend: "openvino" parameters { key: "HINT_BF16" value: { string_value: "NO" } }',
    ),
    "torchscript": (torch_script, 'platform: "pytorch_libtorch"'),
    "torch_export": (exported_program, 'backend: "pytorch" platform: "torch_aoti"'),
    "savedmodel": (saved_model, 'platform: "tensorflow_savedmodel"'),
    "graphdef": (graph_definition, 'platform: "tensorflow_graphdef"'),
}
"""Model name -> what writes its file, and how its configuration begins. TensorRT's plans need a GPU to be made."""


def repository(folder):
    """A model for each of `MAKERS`."""
    for name, (make, begin) in MAKERS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        make(version)
        (folder / name / "config.pbtxt").write_text(CONFIG.format(begin))
    return folder
