"""One small model in every format: OUT = 2 * IN + 1, over rows of any width. Made where needed, without a network."""

from __future__ import annotations

import base64
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WIDTH_MAX = 1 << 20
ROWS_MAX = 8
DOUBLING = f"""max_batch_size: {ROWS_MAX}
input [{{ name: "IN" data_type: TYPE_FP32 dims: [-1] }}]
output [{{ name: "OUT" data_type: TYPE_FP32 dims: [-1] }}]
"""
INDEXED = DOUBLING.replace('"IN"', '"IN__0"').replace('"OUT"', '"OUT__0"')
"""As PyTorch's files want names."""
ONNX = base64.b64decode(
    "CAgSADp5ChEKAklOCgN0d28SAXQiA011bAoSCgF0CgNvbmUSA09VVCIDQWRkEgFnKg0QAUIDdHdvSgQAAABAKg0QAUIDb25lSgQAAIA/WhYKAklO"
    "EhAKDggBEgoKAxIBbgoDEgFrYhcKA09VVBIQCg4IARIKCgMSAW4KAxIBa0IECgAQDQ=="
)
"""Mul and Add, opset 13. The bytes, for the package that makes such files may not be there."""


def write_config(folder: Path, backend: str, config: str, more: str = "") -> None:
    (folder / "config.pbtxt").write_text(
        f'backend: "{backend}"\n{config}instance_group [{{ kind: KIND_GPU count: 1 gpus: [0] }}]\n{more}'
    )


def write_onnx(folder: Path, more: str = "") -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(ONNX)
    write_config(folder, "onnxruntime", DOUBLING, more)


def write_torchscript(folder: Path) -> None:
    torch = importlib.import_module("torch")
    (folder / "1").mkdir(parents=True)
    traced = torch.jit.trace(lambda rows: rows * 2 + 1, torch.zeros(2, 8))
    torch.jit.save(traced, str(folder / "1" / "model.pt"))
    write_config(folder, "pytorch", INDEXED)


def build_plan(path: Path, profiles: int = 1) -> None:
    """By TensorRT's own builder. The second profile is for small batches."""
    trt: Any = importlib.import_module("tensorrt")
    numpy: Any = importlib.import_module("numpy")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network()
    rows = network.add_input("IN", trt.float32, (-1, -1))
    weights = [numpy.full((1, 1), value, numpy.float32) for value in (2, 1)]  # kept until the plan is built
    two, one = (network.add_constant((1, 1), array).get_output(0) for array in weights)
    product = network.add_elementwise(rows, two, trt.ElementWiseOperation.PROD).get_output(0)
    total = network.add_elementwise(product, one, trt.ElementWiseOperation.SUM).get_output(0)
    total.name = "OUT"
    network.mark_output(total)
    config = builder.create_builder_config()
    for most in (ROWS_MAX, 2)[:profiles]:
        profile = builder.create_optimization_profile()
        profile.set_shape("IN", (1, 1), (most, 8), (most, WIDTH_MAX))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise AssertionError("TensorRT's builder made no plan; its log says why")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(plan))


def write_plan(folder: Path, config: str = DOUBLING, more: str = "", *, profiles: int = 1) -> None:
    build_plan(folder / "1" / "model.plan", profiles)
    write_config(folder, "tensorrt", config, more)
