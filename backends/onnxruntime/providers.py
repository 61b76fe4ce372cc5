"""Which execution providers an instance's session gets, best first, with their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...schema.fault import InvalidArgument, Unavailable
from .options import parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...engine.port.backend import InstanceKind
    from ...schema.wire.generated.inference import (
        ModelConfig,
        ModelOptimizationPolicyExecutionAcceleratorsAccelerator,
    )

Provider = tuple[str, dict[str, str]]

_EXTRA = {
    "CUDAExecutionProvider": "pip install 'despina[gpu]'",
    "TensorrtExecutionProvider": "pip install 'despina[gpu,tensorrt]'",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino",
}

_PRECISION = {"FP32": "", "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}

_TENSORRT_RENAMED = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}

_TENSORRT_SAME = frozenset(
    f"trt_{name}"
    for name in (
        "engine_cache_enable",
        "engine_cache_path",
        "engine_cache_prefix",
        "max_partition_iterations",
        "min_subgraph_size",
        "dla_enable",
        "dla_core",
        "dump_subgraphs",
        "force_sequential_engine_build",
        "context_memory_sharing_enable",
        "layer_norm_fp32_fallback",
        "timing_cache_enable",
        "timing_cache_path",
        "force_timing_cache",
        "detailed_build_log",
        "build_heuristics_enable",
        "sparsity_enable",
        "builder_optimization_level",
        "auxiliary_streams",
        "tactic_sources",
        "extra_plugin_lib_paths",
        "profile_min_shapes",
        "profile_max_shapes",
        "profile_opt_shapes",
        "cuda_graph_enable",
        "dump_ep_context_model",
        "ep_context_file_path",
        "ep_context_embed_mode",
    )
)

_CUDA_PARAMETERS: dict[str, dict[str, str] | None] = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "gpu_mem_limit": None,
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "do_copy_in_default_stream": {"0": "0", "1": "1"},
}
"""Model parameters of older repositories for CUDA: what each takes and the provider's word for it; None: a number."""


def providers_for(config: ModelConfig, kind: InstanceKind, device_id: int, available: Sequence[str]) -> list[Provider]:
    """The providers for one instance.

    Raises InvalidArgument for accelerators and parameters that do not exist, Unavailable for a provider that the
    installed onnxruntime lacks.
    """
    chosen: list[Provider] = []
    accelerators = config.optimization.execution_accelerators if config.optimization is not None else None
    if kind == "GPU":
        cuda: dict[str, str] = _cuda_options(parameters(config))
        for wanted in accelerators.gpu_execution_accelerator if accelerators else ():
            if wanted.name == "tensorrt":
                options = tensorrt_options(wanted.parameters)
                chosen.append(("TensorrtExecutionProvider", {"device_id": str(device_id), **options}))
            elif wanted.name == "cuda":
                cuda.update(wanted.parameters)
            else:
                raise _unknown(wanted)
        chosen.append(("CUDAExecutionProvider", {**cuda, "device_id": str(device_id)}))
    for wanted in accelerators.cpu_execution_accelerator if accelerators else ():
        if wanted.name != "openvino":
            raise _unknown(wanted)
        chosen.append(("OpenVINOExecutionProvider", dict(wanted.parameters)))
    for name, _ in chosen:
        if name not in available:
            raise Unavailable(
                f"unable to load model '{config.name}': the installed onnxruntime has no {name} "
                f"(it has {', '.join(available)}); to get it: {_EXTRA[name]}"
            )
    chosen.append(("CPUExecutionProvider", {}))
    return chosen


def tensorrt_options(given: Mapping[str, str]) -> dict[str, str]:
    """The TensorRT accelerator's parameters under the provider's names."""
    options: dict[str, str] = {}
    for key, value in given.items():
        if key == "precision_mode":
            if value not in _PRECISION:
                raise InvalidArgument(f"unsupported precision mode '{value}' is requested")
            if _PRECISION[value]:
                options[_PRECISION[value]] = "1"
        elif key in _TENSORRT_RENAMED:
            options[_TENSORRT_RENAMED[key]] = value
        elif key in _TENSORRT_SAME:
            options[key] = value
        else:
            raise InvalidArgument(f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator")
    return options


def check_given(config: ModelConfig, wanted: Sequence[Provider], got: Sequence[str]) -> None:
    """Raises Unavailable where ONNX Runtime quietly fell back, e.g. because CUDA's libraries do not load."""
    lost = [name for name, _ in wanted if name not in got]
    if lost:
        raise Unavailable(
            f"unable to load model '{config.name}': {', '.join(lost)} could not be started, its libraries or its "
            f"device are missing; onnxruntime offers {', '.join(got)} only"
        )


def _cuda_options(values: Mapping[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, translation in _CUDA_PARAMETERS.items():
        value: Any = values.get(name, "")
        if value == "":
            continue
        if translation is None:
            if not value.isdecimal():
                raise InvalidArgument(f"failed to convert '{value}' to integral number for parameter {name}")
            options[name] = value
        elif value in translation:
            options[name] = translation[value]
        else:
            raise InvalidArgument(
                f"Invalid configuration value provided. Expected values for {name} are "
                f"{' or '.join(translation)} but got {value} ."
            )
    return options


def _unknown(accelerator: ModelOptimizationPolicyExecutionAcceleratorsAccelerator) -> InvalidArgument:
    return InvalidArgument(f"unknown Execution Accelerator '{accelerator.name}' is requested")
