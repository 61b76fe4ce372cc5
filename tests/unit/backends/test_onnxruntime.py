"""Whole-backend tests: real ONNX files, real sessions, jobs made by hand."""

import logging
from itertools import product

import numpy as np
import onnx
import pytest
from despina.backends.onnxruntime import OnnxRuntimeBackend
from despina.schema.datatype import BY_CONFIG_NAME
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, Unavailable
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelInstanceGroup,
    ModelInstanceGroupKind,
    ModelOutput,
    ModelParameter,
    ModelTensorReshape,
)
from onnx import TensorProto as T
from onnx import helper as h

value = h.make_tensor_value_info


def write(bench, nodes, inputs, outputs, *, initializers=(), file="model.onnx"):
    graph = h.make_graph(nodes, "g", inputs, outputs, list(initializers))
    path = bench.path / "1" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)


def write_addsub(bench, first=None, file="model.onnx"):
    nodes = [
        h.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        h.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    write(
        bench,
        nodes,
        [value(name, T.INT32, [first, 16]) for name in ("INPUT0", "INPUT1")],
        [value(name, T.INT32, [first, 16]) for name in ("OUTPUT0", "OUTPUT1")],
        file=file,
    )


def write_identity(bench, kind, shape):
    write(bench, [h.make_node("Identity", ["IN"], ["OUT"])], [value("IN", kind, shape)], [value("OUT", kind, shape)])


def configuration(inputs=(), outputs=(), **fields):
    """Tensors as (name, type, dims)."""
    return ModelConfig(
        name="m",
        backend="onnxruntime",
        input=[ModelInput(name=n, data_type=DataType[f"TYPE_{t}"], dims=list(d)) for n, t, d in inputs],
        output=[ModelOutput(name=n, data_type=DataType[f"TYPE_{t}"], dims=list(d)) for n, t, d in outputs],
        **fields,
    )


def addsub(**fields):
    sides = [(f"PUT{i}", "INT32", [16]) for i in (0, 1)]
    fields.setdefault("max_batch_size", 8)
    return configuration([(f"IN{n}", t, d) for n, t, d in sides], [(f"OUT{n}", t, d) for n, t, d in sides], **fields)


def opened(bench, config, **context):
    model = OnnxRuntimeBackend().open_model(bench.context(config, **context))
    return model, model.open_instance(bench.instance())


def refused(bench, config, fault=InvalidArgument, **context):
    with pytest.raises(fault) as caught:
        OnnxRuntimeBackend().open_model(bench.context(config, **context))
    return caught.value.message


# Completion


def test_completes_a_batching_model(bench):
    """No configuration at all and open first dimensions: batch size 4, dynamic batching, dims without the batch."""
    write_addsub(bench)
    model, _ = opened(bench, configuration())
    config = model.config
    assert config.max_batch_size == 4
    assert config.dynamic_batching.preferred_batch_size == [4]
    assert [(i.name, i.data_type, i.dims) for i in config.input] == [
        ("INPUT0", DataType.TYPE_INT32, [16]),
        ("INPUT1", DataType.TYPE_INT32, [16]),
    ]
    assert [(o.name, o.dims) for o in config.output] == [("OUTPUT0", [16]), ("OUTPUT1", [16])]


def test_completes_a_fixed_model(bench):
    """A fixed first dimension means no batching, whole shapes and no scheduler."""
    write_addsub(bench, first=1)
    model, _ = opened(bench, configuration())
    assert model.config.max_batch_size == 0
    assert model.config.dynamic_batching is None
    assert model.config.input[0].dims == [1, 16]


def test_completes_only_the_missing_list(bench):
    """Given outputs stay as they are; the batch size given is kept."""
    write_addsub(bench)
    model, _ = opened(bench, configuration(outputs=[("OUTPUT1", "INT32", [16])], max_batch_size=2))
    assert [o.name for o in model.config.output] == ["OUTPUT1"]
    assert len(model.config.input) == 2
    assert model.config.max_batch_size == 2


def test_complete_configuration_is_left_alone(bench):
    """With inputs and outputs given nothing is added, not even a batch size."""
    write_addsub(bench)
    sides = [(f"PUT{i}", "INT32", [-1, 16]) for i in (0, 1)]
    config = configuration([(f"IN{n}", t, d) for n, t, d in sides], [(f"OUT{n}", t, d) for n, t, d in sides])
    model, _ = opened(bench, config)
    assert model.config is config
    assert config.max_batch_size == 0


def test_no_completion_when_switched_off(bench):
    """Without completion an empty configuration does not fit the file."""
    write_addsub(bench)
    message = refused(bench, configuration(), auto_complete=False)
    assert message == "unable to load model 'm', configuration expects 0 inputs, model provides 2"


def test_row_vectors_complete_to_an_empty_reshape(bench):
    """A tensor of shape [batch] is [1] in the configuration, reshaped to nothing, and serves."""
    write_identity(bench, T.FLOAT, [None])
    model, instance = opened(bench, configuration())
    assert model.config.input[0].dims == [1]
    assert model.config.input[0].reshape == ModelTensorReshape(shape=[])
    jobs = [bench.job({"IN": np.array([[i]], np.float32)}) for i in range(3)]
    instance.execute(bench.batch(*jobs))
    assert [bench.outputs(job)["OUT"].tolist() for job in jobs] == [[[0.0]], [[1.0]], [[2.0]]]


def test_scalars_without_batching(bench):
    """A scalar completes to dims [1], goes in as a scalar and comes out as [1]."""
    write_identity(bench, T.INT64, [])
    model, instance = opened(bench, configuration())
    assert model.config.input[0].dims == [1]
    assert model.config.input[0].reshape is None
    job = bench.job({"IN": np.array([7])}, batching=False)
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["OUT"].tolist() == [7]


@pytest.mark.parametrize(("setting", "expected"), [("16", 16), ("1", 1), ("0", 0), ("-3", 0)])
def test_default_batch_size_setting(bench, setting, expected):
    """The backend setting is the size; 1 adds no dynamic batching and 0 means no batching."""
    write_addsub(bench)
    model, _ = opened(bench, configuration(), backend_config={"default-max-batch-size": setting})
    assert model.config.max_batch_size == expected
    assert (model.config.dynamic_batching is not None) == (expected > 1)


def test_wrong_default_batch_size_setting(bench):
    """A setting that is no number is refused by name."""
    write_addsub(bench)
    assert "default-max-batch-size" in refused(bench, configuration(), backend_config={"default-max-batch-size": "x"})


def test_batch_size_for_a_model_that_cannot_batch(bench):
    """Asking a fixed model to batch fails completion with the protocol's text."""
    write_addsub(bench, first=1)
    assert refused(bench, configuration(max_batch_size=4)) == (
        "autofill failed for model 'm': model does not support batching while non-zero max_batch_size is specified"
    )


# Load checks


def test_missing_file(bench):
    """No model file is Unavailable and names the path."""
    message = refused(bench, configuration(), Unavailable)
    assert message == f"unable to find '{bench.path / '1' / 'model.onnx'}' for model instance 'm'"


def test_file_names_and_directories(bench):
    """default_model_filename is honoured, and a directory holds model.onnx."""
    write_addsub(bench, file="other.onnx")
    opened(bench, configuration(default_model_filename="other.onnx"))
    write_addsub(bench, file="folder/model.onnx")
    opened(bench, configuration(default_model_filename="folder"))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08" * 1000, bytes(range(256))])
def test_garbage_file(bench, content):
    """A file that is no ONNX model is an Internal fault with ONNX Runtime's own words, on this model alone."""
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / "model.onnx").write_bytes(content)
    assert refused(bench, configuration(), Internal).startswith("onnx runtime error ")


@pytest.mark.parametrize(
    ("inputs", "outputs", "batch", "expected"),
    [
        (
            [("INPUT0", "INT32", [16])],
            [],
            8,
            "unable to load model 'm', configuration expects 1 inputs, model provides 2",
        ),
        (
            [("INPUT0", "INT32", [16]), ("WRONG", "INT32", [16])],
            [],
            8,
            "unexpected inference input 'WRONG', allowed inputs are: INPUT0, INPUT1",
        ),
        (
            [("INPUT0", "INT32", [16]), ("INPUT1", "INT32", [16])],
            [("WRONG", "INT32", [16])],
            8,
            "unexpected inference output 'WRONG', allowed outputs are: OUTPUT0, OUTPUT1",
        ),
        (
            [("INPUT0", "INT32", [16]), ("INPUT1", "FP32", [16])],
            [],
            8,
            "unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'INPUT1', "
            "model provides TYPE_INT32",
        ),
        (
            [("INPUT0", "INT32", [16]), ("INPUT1", "BF16", [16])],
            [],
            8,
            "unable to load model 'm', configuration expects datatype TYPE_BF16 for input 'INPUT1', "
            "model provides TYPE_INT32",
        ),
        (
            [("INPUT0", "INT32", [16]), ("INPUT1", "INT32", [8])],
            [],
            8,
            "model 'm', tensor 'INPUT1': the model expects 2 dimensions (shape [-1,16]) but the model configuration "
            "specifies 2 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit "
            "tensor shape, making complete shape [-1,8])",
        ),
        (
            [("INPUT0", "INT32", [16]), ("INPUT1", "INT32", [16])],
            [("OUTPUT0", "INT32", [16])],
            0,
            "; ".join(
                f"model 'm', tensor '{name}': the model expects 2 dimensions (shape [-1,16]) but the model "
                "configuration specifies 1 dimensions (shape [16])"
                for name in ("INPUT0", "INPUT1", "OUTPUT0")
            ),
        ),
    ],
)
def test_mismatches_are_load_errors(bench, inputs, outputs, batch, expected):
    """Counts, names, datatypes and shapes that do not fit the file, each with the protocol's text."""
    write_addsub(bench)
    outputs = outputs or [("OUTPUT0", "INT32", [16])]
    assert refused(bench, configuration(inputs, outputs, max_batch_size=batch)) == expected


def test_batching_a_fixed_shape(bench):
    """A configured batch size over a model with a fixed first dimension is refused."""
    write_addsub(bench, first=1)
    assert refused(bench, addsub()) == "; ".join(
        f"model 'm', tensor '{name}': for the model to support batching the shape should have at least 1 dimension and "
        "the first dimension must be -1; but shape expected by the model is [1,16]"
        for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    )


def test_scalar_dims_must_be_ones(bench):
    """A scalar's dims may only be 1s."""
    write_identity(bench, T.FLOAT, [])
    config = configuration([("IN", "FP32", [2])], [("OUT", "FP32", [1])])
    assert "input 'IN' is a scalar in the model: the configuration's dims must be 1s, got [2]" in refused(bench, config)


def test_optional_inputs_do_not_batch(bench):
    """An optional input needs a model that does not batch."""
    write_addsub(bench)
    config = addsub()
    config.input[1].optional = True
    expected = "optional input 'INPUT1' is not supported for models that support batching"
    assert refused(bench, config) == expected


def test_types_without_a_protocol_name(bench):
    """What the protocol cannot carry cannot be served; the tensor and its type are named."""
    nodes = [h.make_node("SequenceConstruct", ["IN"], ["OUT"])]
    write(
        bench, nodes, [value("IN", T.FLOAT, [None, 2])], [h.make_tensor_sequence_value_info("OUT", T.FLOAT, [None, 2])]
    )
    expected = "unable to load model 'm': unsupported type seq(tensor(float)) of output 'OUT'"
    assert refused(bench, configuration()) == expected


def bits(*values):
    """Numbers as the bit patterns of BF16."""
    return (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def brain(name, *rows):
    array = np.array([bits(*row) for row in rows])
    return Tensor(name, "BF16", array.shape, None, array)


@pytest.mark.parametrize("out", [T.BFLOAT16, T.FLOAT], ids=["BF16", "FP32"])
@pytest.mark.parametrize("into", [T.BFLOAT16, T.FLOAT], ids=["BF16", "FP32"])
def test_brain_floats(bench, into, out):
    """BF16 goes in and comes out bit by bit, beside other datatypes, alone, in batches and without rows."""
    nodes = [h.make_node("Cast", ["IN"], ["wide"], to=T.FLOAT), h.make_node("Add", ["wide", "MORE"], ["sum"])]
    nodes += [h.make_node("Cast", ["sum"], ["OUT"], to=out)]
    inputs = [value("IN", into, [None, 2]), value("MORE", T.FLOAT, [None, 2])]
    write(bench, nodes, inputs, [value("OUT", out, [None, 2])])
    model, instance = opened(bench, configuration())
    assert {item.data_type for item in model.config.input} >= {DataType.TYPE_FP32}
    jobs = []
    for row in ([1.5, -2.0], [0.25, 3e38], [float("inf"), -0.0]):
        given = brain("IN", row) if into == T.BFLOAT16 else np.array([row], np.float32)
        jobs.append(bench.job({"IN": given, "MORE": np.array([[1, 0]], np.float32)}))
    instance.execute(bench.batch(jobs[0]))
    instance.execute(bench.batch(*jobs[1:]))
    got = [bench.outputs(job)["OUT"] for job in jobs]
    expected = [[2.5, -2.0], [1.25, 3e38], [float("inf"), 0.0]]  # -0 + 0 is 0
    for array, row in zip(got, expected, strict=True):
        if out == T.BFLOAT16:
            assert np.abs(array.astype(int) - bits(*row).astype(int)).max() <= 1  # rounded, where `bits` cuts off
        else:
            np.testing.assert_allclose(array, [row], rtol=0.01)
    none = Tensor("IN", "BF16" if into == T.BFLOAT16 else "FP32", (0, 2), b"")
    job = bench.job({"IN": none, "MORE": np.empty((0, 2), np.float32)})
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["OUT"].shape == (0, 2)


def test_brain_float_scalars(bench):
    """A scalar of BF16 keeps its rank on the way to the model."""
    write_identity(bench, T.BFLOAT16, [])
    _, instance = opened(bench, configuration())
    job = bench.job({"IN": Tensor("IN", "BF16", (1,), bits(7).tobytes())}, batching=False)
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["OUT"].tolist() == bits(7).tolist()


def test_brain_floats_do_not_alias_later_batches(bench):
    """An answer stays what it was when the next batch is executed, also where the model hands on its input."""
    write_identity(bench, T.BFLOAT16, [None, 2])
    _, instance = opened(bench, configuration())
    jobs = [bench.job({"IN": brain("IN", [number, number])}) for number in (1, 2)]
    for job in jobs:
        instance.execute(bench.batch(job))
    assert [bench.outputs(job)["OUT"].tolist() for job in jobs] == [[bits(n, n).tolist()] for n in (1, 2)]


def test_brain_floats_and_strings_do_not_mix(bench):
    """No way into ONNX Runtime takes both: refused by name."""
    inputs = [value("IN", T.BFLOAT16, [None, 2]), value("TEXT", T.STRING, [None, 1])]
    nodes = [h.make_node("Identity", ["IN"], ["OUT"]), h.make_node("Identity", ["TEXT"], ["COPY"])]
    write(bench, nodes, inputs, [value("OUT", T.BFLOAT16, [None, 2]), value("COPY", T.STRING, [None, 1])])
    assert "unsupported datatype TYPE_BF16 for output 'OUT' for model 'm': not together with strings" in refused(
        bench, configuration()
    )


def test_overridable_weights_may_be_inputs(bench):
    """A weight listed as an input is accepted, and a request may leave it out or override it."""
    scale = onnx.numpy_helper.from_array(np.array([2.0], np.float32), "SCALE")
    write(
        bench,
        [h.make_node("Mul", ["IN", "SCALE"], ["OUT"])],
        [value("IN", T.FLOAT, [2]), value("SCALE", T.FLOAT, [1])],
        [value("OUT", T.FLOAT, [2])],
        initializers=[scale],
    )
    config = configuration([("IN", "FP32", [2]), ("SCALE", "FP32", [1])], [("OUT", "FP32", [2])])
    config.input[1].optional = True
    _, instance = opened(bench, config)
    data = np.ones(2, np.float32)
    plain = bench.job({"IN": data}, batching=False)
    scaled = bench.job({"IN": data, "SCALE": np.array([3.0], np.float32)}, batching=False)
    instance.execute(bench.batch(plain))
    instance.execute(bench.batch(scaled))
    assert bench.outputs(plain)["OUT"].tolist() == [2, 2]
    assert bench.outputs(scaled)["OUT"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "execution_mode",
            "2",
            "Invalid configuration value provided. Expected values for  execution_mode are 0 or 1 but got 2 .",
        ),
        ("intra_op_thread_count", "two", "failed to convert 'two' to integral number"),
        ("intra_op_thread_count", "-1", "intra_op_thread_count are 0 to 1024 but got -1"),
        ("inter_op_thread_count", "1025", "inter_op_thread_count are 0 to 1024 but got 1025"),
        ("inter_op_thread_count", "1.5", "failed to convert '1.5'"),
        ("enable_mem_arena", "maybe", "enable_mem_arena are 0 or 1 but got maybe"),
        ("enable_mem_pattern", "2", "enable_mem_pattern are 0 or 1"),
        ("session.use_device_allocator_for_initializers", "x", "use_device_allocator_for_initializers are 0 or 1"),
        ("memory.enable_memory_arena_shrinkage", "tpu:0", "like 'cpu:0;gpu:0' but got tpu:0"),
    ],
)
def test_wrong_parameters_are_load_errors(bench, name, text, expected):
    """A parameter with a value that cannot be is refused by its name."""
    write_addsub(bench)
    assert expected in refused(bench, addsub(parameters={name: ModelParameter(string_value=text)}))


def test_good_parameters_serve(bench, sixteen):
    """Every parameter at once, then an answer."""
    write_addsub(bench)
    values = {
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "1",
        "execution_mode": "1",
        "enable_mem_arena": "1",
        "enable_mem_pattern": "0",
        "memory.enable_memory_arena_shrinkage": "cpu:0",
        "session.use_device_allocator_for_initializers": "1",
        "DESPINA_EXECUTOR": "inline",
        "somebody_elses": "note",
    }
    parameters = {key: ModelParameter(string_value=text) for key, text in values.items()}
    _, instance = opened(bench, addsub(parameters=parameters))
    job = bench.job({"INPUT0": sixteen, "INPUT1": sixteen})
    instance.execute(bench.batch(job))
    np.testing.assert_array_equal(bench.outputs(job)["OUTPUT1"], sixteen * 0)


def test_gpu_without_its_provider_names_the_extra(bench):
    """A GPU instance on a CPU-only installation is a load error that says what to install."""
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    write_addsub(bench)
    config = addsub(instance_group=[ModelInstanceGroup(kind=ModelInstanceGroupKind.GPU, count=1, gpus=[0])])
    model = OnnxRuntimeBackend().open_model(bench.context(config))
    with pytest.raises(Unavailable, match=r"no CUDAExecutionProvider .*despina\[gpu\]"):
        model.open_instance(bench.instance(kind="GPU"))


# Execution


def test_alone_and_in_batches(bench, sixteen):
    """One request, then three with different rows: each gets the answers to its own rows."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    for sizes in ((1,), (1, 3, 2)):
        jobs = [bench.job({"INPUT0": np.tile(sixteen, (n, 1)) * n, "INPUT1": np.full((n, 16), n, "i4")}) for n in sizes]
        batch = bench.batch(*jobs)
        instance.execute(batch)
        assert 0 < batch.inputs_ready_ns <= batch.outputs_started_ns
        for n, job in zip(sizes, jobs, strict=True):
            outputs = bench.outputs(job)
            np.testing.assert_array_equal(outputs["OUTPUT0"], np.tile(sixteen, (n, 1)) * n + n)
            np.testing.assert_array_equal(outputs["OUTPUT1"], np.tile(sixteen, (n, 1)) * n - n)
            assert outputs["OUTPUT0"].dtype == np.int32


def test_answers_do_not_alias_later_batches(bench, sixteen):
    """An answer kept by a slow reader does not change when the next batch runs."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    first = bench.job({"INPUT0": sixteen, "INPUT1": sixteen})
    instance.execute(bench.batch(first))
    instance.execute(bench.batch(bench.job({"INPUT0": sixteen * 100, "INPUT1": sixteen})))
    np.testing.assert_array_equal(bench.outputs(first)["OUTPUT0"], sixteen * 2)


def test_requested_outputs_only(bench, sixteen):
    """Each job's answer has what it asked for, and no more."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    inputs = {"INPUT0": sixteen, "INPUT1": sixteen}
    jobs = [
        bench.job(inputs, outputs=["OUTPUT1"]),
        bench.job(inputs, outputs=["OUTPUT1", "OUTPUT0"]),
        bench.job(inputs),
    ]
    instance.execute(bench.batch(jobs[0]))
    assert list(bench.outputs(jobs[0])) == ["OUTPUT1"]
    instance.execute(bench.batch(*jobs))
    names = [sorted(bench.outputs(job)) for job in jobs]
    assert names == [["OUTPUT1"], ["OUTPUT0", "OUTPUT1"], ["OUTPUT0", "OUTPUT1"]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (T.BOOL, "TYPE_BOOL"),
        (T.UINT8, "TYPE_UINT8"),
        (T.UINT16, "TYPE_UINT16"),
        (T.UINT32, "TYPE_UINT32"),
        (T.UINT64, "TYPE_UINT64"),
        (T.INT8, "TYPE_INT8"),
        (T.INT16, "TYPE_INT16"),
        (T.INT32, "TYPE_INT32"),
        (T.INT64, "TYPE_INT64"),
        (T.FLOAT16, "TYPE_FP16"),
        (T.FLOAT, "TYPE_FP32"),
        (T.DOUBLE, "TYPE_FP64"),
    ],
)
def test_every_datatype_passes_through(bench, kind, name):
    """Completion names the datatype, and values of one and of several requests survive a round trip."""
    write_identity(bench, kind, [None, 3])
    model, instance = opened(bench, configuration())
    assert model.config.input[0].data_type == DataType[name]
    row = BY_CONFIG_NAME[name]
    jobs = [bench.job({"IN": np.array([[0, 1, i]]).astype(row.dtype)}) for i in range(3)]
    instance.execute(bench.batch(jobs[0]))
    instance.execute(bench.batch(*jobs[1:]))
    for i, job in enumerate(jobs):
        assert bench.outputs(job)["OUT"].tolist() == np.array([[0, 1, i]]).astype(row.dtype).tolist()
        assert job.response.outputs[0].datatype == row.name


def test_strings(bench):
    """BYTES go in as text and come out as bytes, alone and in a batch, with empty and non-ASCII elements."""
    write_identity(bench, T.STRING, [None, 2])
    _, instance = opened(bench, configuration())
    jobs = [
        bench.job({"IN": np.array([["é".encode(), b""]], object)}),
        bench.job({"IN": np.array([[b"x\x00y", b"b"], [b"c", b"d"]], object)}),
    ]
    instance.execute(bench.batch(*jobs))
    assert bench.outputs(jobs[0])["OUT"].tolist() == [["é".encode(), b""]]
    assert bench.outputs(jobs[1])["OUT"].tolist()[1] == [b"c", b"d"]


def test_one_bad_request_does_not_spoil_the_batch(bench):
    """Elements that are not UTF-8, or bytes that lie about their length, fail their request alone."""
    write_identity(bench, T.STRING, [None, 1])
    _, instance = opened(bench, configuration())
    binary = bench.job({"IN": np.array([[b"\xff\xfe"]], object)})
    lying = bench.job({"IN": Tensor("IN", "BYTES", [1, 1], memory=b"\xff\xff\xff\xff")})
    sound = bench.job({"IN": np.array([[b"ok"]], object)})
    instance.execute(bench.batch(binary, sound, lying))
    assert "input 'IN': ONNX strings must be UTF-8" in binary.fault.message
    assert isinstance(lying.fault, InvalidArgument)
    assert bench.outputs(sound)["OUT"].tolist() == [[b"ok"]]
    instance.execute(bench.batch(bench.job({"IN": np.array([[b"\xff"]], object)})))


def test_zero_rows_and_zero_sizes(bench):
    """Batches without rows and tensors without elements are answered in kind."""
    write_identity(bench, T.FLOAT, [None, None])
    _, instance = opened(bench, configuration())
    for shape in ((0, 3), (2, 0)):
        job = bench.job({"IN": np.zeros(shape, np.float32)})
        instance.execute(bench.batch(job))
        assert bench.outputs(job)["OUT"].shape == shape


def test_open_dims(bench):
    """A model without batching takes any size where its dims are -1."""
    write_identity(bench, T.FLOAT, [None, "width"])
    config = configuration([("IN", "FP32", [-1, -1])], [("OUT", "FP32", [-1, -1])])
    _, instance = opened(bench, config)
    for shape in ((3, 5), (1, 2)):
        job = bench.job({"IN": np.ones(shape, np.float32)}, batching=False)
        instance.execute(bench.batch(job))
        assert bench.outputs(job)["OUT"].shape == shape


def test_failing_execution(bench, caplog):
    """What ONNX Runtime raises reaches the client as one line with its code, the log whole, and the next batch runs."""
    write_identity(bench, T.FLOAT, [None, 3])
    config = configuration([("IN", "FP32", [-1])], [("OUT", "FP32", [-1])], max_batch_size=4)
    config.input[0].dims = [3]
    config.output[0].dims = [3]
    _, instance = opened(bench, config)
    wrong = bench.job({"IN": np.zeros((1, 4), np.float32)})
    with caplog.at_level(logging.ERROR, "despina.backends.onnxruntime"):
        instance.execute(bench.batch(wrong))
    assert isinstance(wrong.fault, ModelFailure)
    assert wrong.fault.message.startswith("onnx runtime error 2: Got invalid dimensions for input: IN")
    assert "Traceback" not in wrong.fault.message
    assert "m_0_0" in caplog.text
    good = bench.job({"IN": np.zeros((1, 3), np.float32)})
    instance.execute(bench.batch(good))
    assert bench.outputs(good)["OUT"].shape == (1, 3)


def test_model_that_loses_rows(bench):
    """A model that reduces over the batch while it claims to batch fails its requests with a text, not a crash."""
    nodes = [h.make_node("NonZero", ["IN"], ["AT"]), h.make_node("Transpose", ["AT"], ["OUT"])]
    write(bench, nodes, [value("IN", T.FLOAT, [None, 2])], [value("OUT", T.INT64, ["rows", 2])])
    _, instance = opened(bench, configuration([("IN", "FP32", [2])], [("OUT", "INT64", [2])], max_batch_size=4))
    job = bench.job({"IN": np.ones((1, 2), np.float32)})
    instance.execute(bench.batch(job))
    assert isinstance(job.fault, ModelFailure)
    assert job.fault.message.startswith("model 'm', output 'OUT': expected 1 rows")


def write_lookup(bench):
    """A model that fails for what a request holds: an index that its table does not have."""
    table = onnx.numpy_helper.from_array(np.array([10, 11, 12], np.float32), "T")
    write(
        bench,
        [h.make_node("Gather", ["T", "IN"], ["OUT"])],
        [value("IN", T.INT64, [None, 1])],
        [value("OUT", T.FLOAT, [None, 1])],
        initializers=[table],
    )


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("wrong", [{0}, {1, 4}])
def test_a_request_that_the_model_fails_for_fails_alone(bench, caplog, count, wrong):
    """Its neighbours get their answers, and the fast way of small batches is kept: a client must not slow it down."""
    write_lookup(bench)
    _, instance = opened(bench, configuration([("IN", "INT64", [1])], [("OUT", "FP32", [1])], max_batch_size=8))
    jobs = [bench.job({"IN": np.array([[99 if n in wrong else n % 3]])}) for n in range(count)]
    instance.execute(bench.batch(*jobs))
    for n, job in enumerate(jobs):
        if n in wrong:
            assert isinstance(job.fault, ModelFailure)
            assert "indices element out of data bounds" in job.fault.message
        else:
            assert bench.outputs(job)["OUT"].item() == 10 + n % 3
    assert instance._bound is not None
    assert "not binding" not in caplog.text


# Bound plans


def test_fixed_shapes_run_through_plans(bench, sixteen):
    """One plan per batch size, reused; callers who all want fewer outputs have plans of their own."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    inputs = {"INPUT0": sixteen, "INPUT1": sixteen}
    for _ in range(2):
        for count in (1, 2):
            instance.execute(bench.batch(*[bench.job(inputs) for _ in range(count)]))
    assert set(instance._bound._plans) == {1, 2}
    instance.execute(bench.batch(*[bench.job(inputs, outputs=["OUTPUT0"]) for _ in range(3)]))
    assert set(instance._bound._plans) == {1, 2}
    assert set(instance._bound._some_plans) == {(3, "OUTPUT0")}


@pytest.mark.parametrize("bound", [True, False])
def test_callers_who_want_different_outputs_share_a_batch(bench, bound):
    """Goal: each gets what it asked for of its own rows, through plans as without them, however many others want more
    or less. Method: every batch of up to three callers with none, one, or both outputs named, and one or two rows."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    if not bound:
        instance._bound = None
    wishes = [(), ("OUTPUT0",), ("OUTPUT1",), ("OUTPUT1", "OUTPUT0")]
    for count in (1, 2, 3):
        for number, asked in enumerate(product(wishes, repeat=count)):
            jobs, sums = [], []
            for place, outputs in enumerate(asked):
                rows = 1 + (number + place) % 2
                left, right = (np.full((rows, 16), 100 * number + 10 * place + side, np.int32) for side in (0, 7))
                jobs.append(bench.job({"INPUT0": left, "INPUT1": right}, outputs=list(outputs)))
                sums.append({"OUTPUT0": left + right, "OUTPUT1": left - right})
            instance.execute(bench.batch(*jobs))
            for job, outputs, expected in zip(jobs, asked, sums, strict=True):
                found = bench.outputs(job)
                assert found.keys() == set(outputs or expected)
                for name, values in found.items():
                    np.testing.assert_array_equal(values, expected[name])
    if bound:
        assert instance._bound._some_plans


def test_plans_are_bounded_in_number_and_size(bench, monkeypatch):
    """Large batches and the batch sizes after the limit go the ordinary way, with the same answers."""
    monkeypatch.setattr("despina.backends.onnxruntime.bound.PLANS_MAX", 2)
    monkeypatch.setattr("despina.backends.onnxruntime.bound.PLAN_BYTES_MAX", 256 * 4)
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    for rows in (8, 1, 2, 3):
        data = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
        job = bench.job({"INPUT0": data, "INPUT1": data})
        instance.execute(bench.batch(job))
        np.testing.assert_array_equal(bench.outputs(job)["OUTPUT0"], data * 2)
    assert set(instance._bound._plans) == {1, 2}


def test_plan_refuses_bytes_of_another_size(bench, sixteen):
    """Bytes that do not fill their rows are not copied into a plan: the request fails, its neighbour does not."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())
    short = bench.job({"INPUT0": sixteen, "INPUT1": sixteen})
    short.request.inputs["INPUT1"] = Tensor("INPUT1", "INT32", [1, 16], memory=b"123")
    sound = bench.job({"INPUT0": sixteen, "INPUT1": sixteen})
    instance.execute(bench.batch(short, sound))
    assert isinstance(short.fault, InvalidArgument)
    np.testing.assert_array_equal(bench.outputs(sound)["OUTPUT0"], sixteen * 2)
    alone = bench.job({"INPUT0": sixteen, "INPUT1": sixteen})
    alone.request.inputs["INPUT1"] = Tensor("INPUT1", "INT32", [1, 16], memory=b"1" * 65)
    instance.execute(bench.batch(alone))
    assert alone.fault is not None


def test_binding_that_fails_is_given_up(bench, sixteen, caplog):
    """Where the bound way raises, the ordinary way answers, now and from then on."""
    write_addsub(bench)
    _, instance = opened(bench, addsub())

    def raising(*_):
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : shape verification failed")

    instance._bound._run_inner = raising
    job = bench.job({"INPUT0": sixteen, "INPUT1": sixteen})
    instance.execute(bench.batch(job))
    np.testing.assert_array_equal(bench.outputs(job)["OUTPUT1"], sixteen * 0)
    assert instance._bound is None
    assert "onnx runtime error 6: shape verification failed" in caplog.text


NUMBERS = onnx.numpy_helper.from_array(np.array([5, 6], np.float32), "C")


@pytest.mark.parametrize("optimised", ["0", "-1"])
@pytest.mark.parametrize(
    ("nodes", "outputs", "initializers"),
    [
        ([], ["IN"], []),
        ([("Neg", "IN", "OUT")], ["OUT", "IN"], []),
        ([("Neg", "IN", "OUT")], ["IN", "OUT"], []),
        ([("Identity", "IN", "OUT")], ["OUT"], []),
        ([("Identity", "IN", "OUT"), ("Identity", "IN", "TOO")], ["OUT", "TOO"], []),
        ([("Neg", "IN", "N"), ("Identity", "N", "OUT"), ("Identity", "N", "TOO")], ["OUT", "TOO"], []),
        ([("Neg", "IN", "OUT"), ("Identity", "OUT", "TOO")], ["OUT", "TOO"], []),
        ([("Neg", "IN", "OUT")], ["OUT", "C"], [NUMBERS]),
        ([("Neg", "IN", "OUT"), ("Neg", "C", "TOO")], ["OUT", "TOO"], [NUMBERS]),
        ([("Dropout", "IN", "OUT"), ("Neg", "IN", "TOO")], ["OUT", "TOO"], []),
    ],
)
def test_outputs_that_are_other_values(bench, nodes, outputs, initializers, optimised):
    """An output that is an input, another output, a constant or a node optimised away: each request gets its own
    numbers, through plans or without."""
    write(
        bench,
        [h.make_node(kind, [source], [target]) for kind, source, target in nodes],
        [value("IN", T.FLOAT, [2])],
        [value(name, T.FLOAT, [2]) for name in outputs],
        initializers=initializers,
    )
    config = configuration(
        [("IN", "FP32", [2])],
        [(name, "FP32", [2]) for name in outputs],
        parameters={"graph_optimization_level": ModelParameter(string_value=optimised)},
    )
    _, instance = opened(bench, config)
    for number in (1.0, 2.0, -3.0):
        given = np.array([number, number + 1], np.float32)
        job = bench.job({"IN": given}, batching=False)
        instance.execute(bench.batch(job))
        assert list(bench.outputs(job)) == outputs
        for name, array in bench.outputs(job).items():
            negative = any(each == ("Neg", "IN", name) for each in nodes) or ("Neg", "IN", "N") in nodes
            negative |= ("Identity", "OUT", name) in nodes
            constant = {"C": [5, 6], "TOO": [-5, -6] if ("Neg", "C", "TOO") in nodes else None}.get(name)
            assert array.tolist() == (constant or (-given if negative else given).tolist()), name
    assert (instance._bound is None) == ("IN" in outputs)


def test_plans_reshape(bench):
    """A configured reshape shows in the answer's shape, through a plan as well."""
    write_identity(bench, T.INT16, [None, 2, 3])
    config = configuration([("IN", "INT16", [6])], [("OUT", "INT16", [3, 2])], max_batch_size=4)
    config.input[0].reshape = ModelTensorReshape(shape=[2, 3])
    config.output[0].reshape = ModelTensorReshape(shape=[2, 3])
    _, instance = opened(bench, config)
    jobs = [bench.job({"IN": np.arange(6, dtype=np.int16).reshape(1, 6) + i}) for i in range(2)]
    instance.execute(bench.batch(*jobs))
    assert set(instance._bound._plans) == {2}
    assert bench.outputs(jobs[1])["OUT"].tolist() == [[[1, 2], [3, 4], [5, 6]]]


def test_plans_without_batching(bench):
    """A fixed model that does not batch has one plan."""
    write_addsub(bench, first=1)
    _, instance = opened(bench, configuration())
    job = bench.job({"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}, batching=False)
    instance.execute(bench.batch(job))
    assert set(instance._bound._plans) == {1}
    assert bench.outputs(job)["OUTPUT0"].tolist() == [[2] * 16]


def test_without_the_private_session(bench, sixteen, monkeypatch):
    """Should ONNX Runtime hide its inner session, the public call serves as well."""
    write_addsub(bench)
    model = OnnxRuntimeBackend().open_model(bench.context(addsub()))
    session = model._cpu_session
    methods = ("run", "io_binding", "run_with_iobinding")
    model._cpu_session = type("Public", (), {name: staticmethod(getattr(session, name)) for name in methods})()
    instance = model.open_instance(bench.instance())
    for outputs in ([], ["OUTPUT0"]):
        job = bench.job({"INPUT0": sixteen, "INPUT1": sixteen}, outputs=outputs)
        instance.execute(bench.batch(job))
        np.testing.assert_array_equal(bench.outputs(job)["OUTPUT0"], sixteen * 2)


def test_cpu_instances_share_the_weights(bench):
    """Two CPU instances of a version have one session between them, and closing is clean."""
    write_addsub(bench)
    model, first = opened(bench, addsub())
    second = model.open_instance(bench.instance("m_0_1"))
    assert first._session is second._session
    first.close()
    second.close()
    model.close()


def test_summary_names_the_framework():
    """The table of backends says which framework is installed."""
    assert OnnxRuntimeBackend().config_summary().startswith("onnxruntime")
