"""Every option that an ONNX model can have: what becomes of it, and what is said of one that cannot be."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from despina.backends import onnxruntime as backend_package
from despina.backends.onnxruntime import OnnxRuntimeBackend
from despina.backends.onnxruntime.options import run_options, session_options
from despina.backends.onnxruntime.providers import check_given, providers_for, tensorrt_options
from despina.schema.fault import Internal, InvalidArgument, Unavailable
from despina.schema.wire.generated.inference import (
    ModelConfig,
    ModelOperations,
    ModelOptimizationPolicy,
    ModelOptimizationPolicyExecutionAccelerators,
    ModelOptimizationPolicyExecutionAcceleratorsAccelerator,
    ModelOptimizationPolicyGraph,
    ModelParameter,
)
from onnx import TensorProto as T
from onnx import helper as h

EVERYTHING = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"]
Accelerator = ModelOptimizationPolicyExecutionAcceleratorsAccelerator
value = h.make_tensor_value_info


def accelerated(gpu=(), cpu=(), **parameters):
    """Accelerators as (name, parameters)."""
    return ModelConfig(
        name="m",
        parameters={key: ModelParameter(string_value=text) for key, text in parameters.items()},
        optimization=ModelOptimizationPolicy(
            execution_accelerators=ModelOptimizationPolicyExecutionAccelerators(
                gpu_execution_accelerator=[Accelerator(name=name, parameters=given) for name, given in gpu],
                cpu_execution_accelerator=[Accelerator(name=name, parameters=given) for name, given in cpu],
            )
        ),
    )


def write(bench, node, kind, shape, *, domains=()):
    graph = h.make_graph([node], "g", [value("IN", kind, shape)], [value("OUT", kind, shape)])
    path = bench.path / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    imports = [h.make_opsetid("", 13), *(h.make_opsetid(name, 1) for name in domains)]
    onnx.save(h.make_model(graph, opset_imports=imports, ir_version=8), path)


# Session options


@pytest.mark.parametrize(
    ("level", "expected"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_graph_levels(level, expected):
    """optimization.graph.level chooses how far ONNX Runtime rewrites the graph."""
    config = ModelConfig(optimization=ModelOptimizationPolicy(graph=ModelOptimizationPolicyGraph(level=level)))
    made = session_options(onnxruntime, config, {})
    assert made.graph_optimization_level == getattr(onnxruntime.GraphOptimizationLevel, expected)


def test_parameters_become_session_options():
    """Each parameter sets its option; the model's say goes before the backend setting's."""
    texts = {
        "intra_op_thread_count": "3",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "false",
        "session.use_device_allocator_for_initializers": "1",
    }
    config = ModelConfig(parameters={key: ModelParameter(string_value=text) for key, text in texts.items()})
    settings = {"intra_op_thread_count": "2", "inter_op_thread_count": "4", "enable-global-threadpool": "1"}
    made = session_options(onnxruntime, config, settings)
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (3, 4)
    assert made.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert (made.enable_cpu_mem_arena, made.enable_mem_pattern, made.use_per_session_threads) == (False, False, False)
    assert made.get_session_config_entry("session.use_device_allocator_for_initializers") == "1"


def test_defaults_are_onnx_runtimes():
    """A model that says nothing gets what ONNX Runtime gives by itself."""
    made, plain = session_options(onnxruntime, ModelConfig(), {}), onnxruntime.SessionOptions()
    for name in ("intra_op_num_threads", "inter_op_num_threads", "execution_mode", "enable_cpu_mem_arena"):
        assert getattr(made, name) == getattr(plain, name)
    assert made.use_per_session_threads
    assert run_options(onnxruntime, ModelConfig()) is None


def test_arena_shrinkage_is_of_each_run():
    """memory.enable_memory_arena_shrinkage goes into the options of every run."""
    text = "cpu:0;gpu:1"
    config = ModelConfig(parameters={"memory.enable_memory_arena_shrinkage": ModelParameter(string_value=text)})
    made = run_options(onnxruntime, config)
    assert made.get_run_config_entry("memory.enable_memory_arena_shrinkage") == text


# Providers


def test_providers_in_their_order():
    """TensorRT before CUDA before OpenVINO before the CPU, whatever order the configuration has."""
    config = accelerated(gpu=[("cuda", {}), ("tensorrt", {})], cpu=[("openvino", {"device_type": "CPU"})])
    assert [name for name, _ in providers_for(config, "GPU", 3, EVERYTHING)] == EVERYTHING
    assert [name for name, _ in providers_for(config, "CPU", 0, EVERYTHING)] == EVERYTHING[2:]


def test_the_device_is_the_instances():
    """Accelerators run where the instance is, which no option of theirs can change."""
    config = accelerated(gpu=[("tensorrt", {}), ("cuda", {"device_id": "7", "prefer_nhwc": "1"})])
    tensorrt, cuda, _ = (options for _, options in providers_for(config, "GPU", 3, EVERYTHING))
    assert tensorrt == {"device_id": "3"}
    assert cuda == {"device_id": "3", "prefer_nhwc": "1"}


def test_older_cuda_parameters_and_the_accelerators_own():
    """Parameters of older repositories keep their numbers; the accelerator's options go before them."""
    older = {
        "cudnn_conv_algo_search": "1",
        "gpu_mem_limit": "1000",
        "arena_extend_strategy": "1",
        "do_copy_in_default_stream": "0",
    }
    config = accelerated(gpu=[("cuda", {"gpu_mem_limit": "2000"})], **older)
    assert dict(providers_for(config, "GPU", 0, EVERYTHING))["CUDAExecutionProvider"] == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": "2000",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "0",
        "device_id": "0",
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cudnn_conv_algo_search", "3", "cudnn_conv_algo_search are 0 or 1 or 2 but got 3"),
        ("gpu_mem_limit", "all", "failed to convert 'all' to integral number for parameter gpu_mem_limit"),
        ("arena_extend_strategy", "2", "arena_extend_strategy are 0 or 1 but got 2"),
        ("do_copy_in_default_stream", "yes", "do_copy_in_default_stream are 0 or 1 but got yes"),
    ],
)
def test_wrong_cuda_parameters(name, text, expected):
    """Refused by name, for instances on GPUs; those on CPUs do not read them."""
    config = accelerated(**{name: text})
    with pytest.raises(InvalidArgument, match=re.escape(expected)):
        providers_for(config, "GPU", 0, EVERYTHING)
    assert providers_for(config, "CPU", 0, EVERYTHING) == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize("place", ["gpu", "cpu"])
def test_unknown_accelerators(place):
    """Refused by name."""
    with pytest.raises(InvalidArgument, match=r"^unknown Execution Accelerator 'magic' is requested$"):
        providers_for(accelerated(**{place: [("magic", {})]}), "GPU", 0, EVERYTHING)


def test_missing_providers_name_what_to_install():
    """An onnxruntime that was built without says which package has it."""
    for config, kind, package in (
        (accelerated(gpu=[("tensorrt", {})]), "GPU", r"no TensorrtExecutionProvider .*despina\[gpu,tensorrt\]"),
        (accelerated(), "GPU", r"no CUDAExecutionProvider .*despina\[gpu\]"),
        (accelerated(cpu=[("openvino", {})]), "CPU", "no OpenVINOExecutionProvider .*onnxruntime-openvino"),
    ):
        with pytest.raises(Unavailable, match=package):
            providers_for(config, kind, 0, ["CPUExecutionProvider"])


def test_a_provider_that_does_not_start():
    """ONNX Runtime falls back without a word: that is a load error here."""
    wanted = providers_for(accelerated(), "GPU", 0, EVERYTHING)
    check_given(ModelConfig(name="m"), wanted, EVERYTHING)
    with pytest.raises(Unavailable, match="CUDAExecutionProvider could not be started"):
        check_given(ModelConfig(name="m"), wanted, ["CPUExecutionProvider"])


def test_no_session_falls_back_by_itself(bench, monkeypatch):
    """ONNX Runtime's Python would try again on the CPU, print why to stdout, and keep the reason to itself: a provider
    that refuses its options is a load error in its own words."""
    write(bench, h.make_node("Identity", ["IN"], ["OUT"]), T.FLOAT, [None, 1])
    seen = []

    def session(*arguments, **options):
        seen.append(options.get("enable_fallback"))
        if seen[-1] != 0:
            return made(*arguments)
        raise RuntimeError("Invalid option: bogus")

    made = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(Internal, match="Invalid option: bogus"):
        OnnxRuntimeBackend().open_model(bench.context(ModelConfig(name="m")))
    assert seen == [0]


TENSORRT = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
    **{
        f"trt_{name}": f"trt_{name}"
        for name in re.findall(
            r"\w+",
            "engine_cache_enable engine_cache_path engine_cache_prefix max_partition_iterations min_subgraph_size "
            "dla_enable dla_core dump_subgraphs force_sequential_engine_build context_memory_sharing_enable "
            "layer_norm_fp32_fallback timing_cache_enable timing_cache_path force_timing_cache detailed_build_log "
            "build_heuristics_enable sparsity_enable builder_optimization_level auxiliary_streams tactic_sources "
            "extra_plugin_lib_paths profile_min_shapes profile_max_shapes profile_opt_shapes cuda_graph_enable "
            "dump_ep_context_model ep_context_file_path ep_context_embed_mode",
        )
    },
}


def test_tensorrt_parameters():
    """Every parameter of the accelerator reaches the provider, under the provider's name."""
    assert tensorrt_options(dict.fromkeys(TENSORRT, "x")) == dict.fromkeys(TENSORRT.values(), "x")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("FP32", {}),
        ("FP16", {"trt_fp16_enable": "1"}),
        ("BF16", {"trt_bf16_enable": "1"}),
        ("INT8", {"trt_int8_enable": "1"}),
    ],
)
def test_tensorrt_precision(mode, expected):
    """precision_mode switches the provider's own options."""
    assert tensorrt_options({"precision_mode": mode}) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"precision_mode": "FP8"}, "unsupported precision mode 'FP8' is requested"),
        ({"trt_magic": "1"}, "unknown parameter 'trt_magic' is provided for TensorRT Execution Accelerator"),
        ({"device_id": "1"}, "unknown parameter 'device_id' is provided for TensorRT Execution Accelerator"),
    ],
)
def test_wrong_tensorrt_parameters(given, expected):
    """Refused in the words that users of the accelerator know."""
    with pytest.raises(InvalidArgument) as caught:
        tensorrt_options(given)
    assert caught.value.message == expected


def test_the_page_lists_every_option():
    """Goal: the table of the README is the whole list."""
    page = (Path(backend_package.__file__).parent / "README.md").read_text()
    missing = [name for name in (*TENSORRT, "precision_mode") if name.removeprefix("trt_") not in page]
    assert missing == []


def test_files_for_compute_capabilities(bench, monkeypatch):
    """On a GPU the file for the device's compute capability, where there is one; else the default."""
    write(bench, h.make_node("Identity", ["IN"], ["OUT"]), T.FLOAT, [None, 1])
    (bench.path / "1" / "hopper.onnx").write_bytes((bench.path / "1" / "model.onnx").read_bytes())
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 2, getDeviceProperties=lambda device: {"major": 9 - device, "minor": 0}
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    config = ModelConfig(name="m", cc_model_filenames={"9.0": "hopper.onnx", "7.5": "turing.onnx"})
    model = OnnxRuntimeBackend().open_model(bench.context(config))
    assert [model._file_for(device).name for device in (0, 1)] == ["hopper.onnx", "model.onnx"]


# Custom operators


def operators(name="operators.so"):
    return ModelConfig(name="m", model_operations=ModelOperations(op_library_filename=[name]))


def operator_library():
    """Of the package, which is not imported: from then on all processes would read protobuf in pure Python."""
    (folder,) = importlib.util.find_spec("onnxruntime_extensions").submodule_search_locations
    (library,) = Path(folder).glob("_extensions_pydll*.so")
    return library


@pytest.mark.parametrize("place", ["", "1"], ids=["model", "version"])
def test_custom_operators(bench, place):
    """A library of operators in the model's or the version's directory is there for the file's nodes."""
    domain = "ai.onnx.contrib"
    write(bench, h.make_node("StringUpper", ["IN"], ["OUT"], domain=domain), T.STRING, [None, 1], domains=[domain])
    with pytest.raises(Internal, match=r"ai\.onnx\.contrib"):
        OnnxRuntimeBackend().open_model(bench.context(ModelConfig(name="m")))
    (bench.path / place / "operators.so").symlink_to(operator_library())
    model = OnnxRuntimeBackend().open_model(bench.context(operators()))
    instance = model.open_instance(bench.instance())
    job = bench.job({"IN": np.array([["abc"]], object)})
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["OUT"].tolist() == [[b"ABC"]]


def test_operators_that_are_not_there(bench):
    """A missing library is named; one that is none fails with the loader's text."""
    write(bench, h.make_node("Identity", ["IN"], ["OUT"]), T.FLOAT, [None, 1])
    with pytest.raises(Unavailable, match=r"unable to find '.*/m/operators.so', a library of operators"):
        OnnxRuntimeBackend().open_model(bench.context(operators()))
    (bench.path / "operators.so").write_text("no library")
    with pytest.raises(Internal, match=r"onnx runtime error 1: Failed to load library .*operators.so"):
        OnnxRuntimeBackend().open_model(bench.context(operators()))
