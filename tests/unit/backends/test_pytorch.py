"""PyTorch models of every kind of file, written by PyTorch itself: names, forms, faults, options, states."""

from __future__ import annotations

import ctypes
import logging
import sys
import textwrap
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from despina.backends.pytorch import PyTorchBackend, files
from despina.backends.pytorch.naming import Arguments, arguments_of, results_of
from despina.backends.pytorch.tensors import to_host, to_torch
from despina.backends.regions import RegionCopies
from despina.schema.datatype import BY_NAME
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, Unavailable
from despina.schema.shared_memory import SharedUse
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelOutput,
    ModelParameter,
    ModelSequenceBatching,
    ModelSequenceBatchingControl,
    ModelSequenceBatchingControlInput,
    ModelSequenceBatchingControlKind,
    ModelSequenceBatchingState,
)

FP32 = DataType.TYPE_FP32
X = np.array([[1.0, 2.0]], np.float32)
Y = np.array([[10.0, 20.0]], np.float32)


class AddSub(torch.nn.Module):
    def forward(self, a, b):
        return a + b, a - b


def tensors(names, kind=FP32, dims=(-1,)):
    return [ModelInput(name=name, data_type=kind, dims=list(dims)) for name in names]


def outputs(names, kind=FP32, dims=(-1,)):
    return [ModelOutput(name=name, data_type=kind, dims=list(dims)) for name in names]


def config(inputs=("a", "b"), results=("SUM", "DIFFERENCE"), **fields):
    given = {"max_batch_size": 8, "input": tensors(inputs), "output": outputs(results), **fields}
    parameters = {name: ModelParameter(string_value=text) for name, text in given.pop("parameters", {}).items()}
    return ModelConfig(name="m", backend="pytorch", parameters=parameters, **given)


def scripted(bench, source, name="model.pt"):
    """A TorchScript file of a module with this source: TorchScript reads it from where it was defined."""
    file = bench.path / "source.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("import torch\nfrom typing import Dict, List, Tuple\n" + textwrap.dedent(source))
    space = {"__name__": "source"}
    exec(compile(file.read_text(), str(file), "exec"), space)
    (bench.path / "1").mkdir(exist_ok=True)
    torch.jit.script(space["M"]()).save(str(bench.path / "1" / name))


def traced(bench, module, *examples):
    (bench.path / "1").mkdir(parents=True, exist_ok=True)
    torch.jit.trace(module, examples).save(str(bench.path / "1" / "model.pt"))


ADD_SUB = """
class M(torch.nn.Module):
    def forward(self, a, b):
        return a + b, a - b
"""


def opened(bench, given, **instance):
    return PyTorchBackend().open_model(bench.context(given)).open_instance(bench.instance(**instance))


def executed(bench, given, *jobs):
    opened(bench, given).execute(bench.batch(*jobs))
    return jobs


def refused(bench, given, fault=InvalidArgument):
    with pytest.raises(fault) as caught:
        opened(bench, given)
    return caught.value.message


# Names


@pytest.mark.parametrize(
    ("inputs", "left"),
    [
        (("a", "b"), "a"),
        (("b", "a"), "a"),
        (("x__1", "y__0"), "y__0"),
        (("first", "second"), "first"),
        (("ARGS[1]", "ARGS[0]"), "ARGS[0]"),
        (("KWARGS[b]", "KWARGS[a]"), "KWARGS[a]"),
        (("ARGS[0]", "KWARGS[b]"), "ARGS[0]"),
    ],
)
def test_inputs_by_name_index_and_order(bench, inputs, left):
    """Each finds its argument, whatever the configuration's order."""
    scripted(bench, ADD_SUB)
    given = {name: X if name == left else Y for name in inputs}
    (job,) = executed(bench, config(inputs), bench.job(given))
    np.testing.assert_array_equal(bench.outputs(job)["DIFFERENCE"], X - Y)


@pytest.mark.parametrize("names", [("D__1", "S__0"), ("S", "D__1x"), ("RESULT[1]", "RESULT[0]"), ("only__1",)])
def test_outputs_by_index_and_order(bench, names):
    """Likewise, and some may be left out."""
    scripted(bench, ADD_SUB)
    (job,) = executed(bench, config(results=names), bench.job({"a": X, "b": Y}))
    by_name = {"D__1": X - Y, "S__0": X + Y, "S": X + Y, "D__1x": X - Y, "only__1": X - Y}
    by_name |= {"RESULT[1]": X - Y, "RESULT[0]": X + Y}
    found = bench.outputs(job)
    assert found.keys() == set(names)
    for name in names:
        np.testing.assert_array_equal(found[name], by_name[name])


def test_order_is_warned_of(bench, caplog):
    """Nothing says that it is right."""
    scripted(bench, ADD_SUB)
    with caplog.at_level(logging.WARNING):
        opened(bench, config(("first", "second")))
    assert "passed in the configuration's order" in caplog.text


def test_a_dictionary(bench):
    """A forward of one Dict(str, Tensor) gets all inputs by their names."""
    source = """
    class M(torch.nn.Module):
        def forward(self, given: Dict[str, torch.Tensor]):
            return given["one"] - given["two"]
    """
    scripted(bench, source)
    (job,) = executed(bench, config(("two", "one"), ("OUT",)), bench.job({"one": X, "two": Y}))
    np.testing.assert_array_equal(bench.outputs(job)["OUT"], X - Y)


@pytest.mark.parametrize(
    ("names", "text"), [(("a__0", "b__2"), "have the indexes [0, 2]"), (("a__0", "b__0"), "have the same index")]
)
def test_indexes_that_cannot_be(bench, names, text):
    """They are refused at load."""
    scripted(bench, ADD_SUB)
    assert text in refused(bench, config(names))


def test_naming_alone():
    """The table in naming.py."""
    assert arguments_of(("x",), ("x", "y"), takes_dictionary=False) == Arguments(keywords=(("x", "x"),))
    assert arguments_of((), (), takes_dictionary=False) == Arguments()
    assert results_of(("b__2", "a__0")) == ("a__0", "", "b__2")
    assert results_of(("b__2", "a")) == ("b__2", "a")


# Values


@pytest.mark.parametrize("kind", ["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16"])
def test_datatypes(bench, kind):
    """Every datatype goes through, and a batch of several requests is one call."""
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x\n")
    given = config(("x",), ("y",))
    given.input[0].data_type = given.output[0].data_type = DataType[f"TYPE_{kind}"]
    from despina.schema.datatype import BY_NAME
    from despina.schema.tensor import Tensor

    jobs = []
    for rows in (1, 2, 3):
        array = np.arange(rows * 2).reshape(rows, 2).astype(BY_NAME[kind].dtype)
        jobs.append(bench.job({"x": Tensor.of("x", array, kind)}))
    executed(bench, given, *jobs)
    for job in jobs:
        (out,) = job.response.outputs
        assert out.datatype == kind
        np.testing.assert_array_equal(out.numpy(), job.request.inputs["x"].numpy())


STRINGS = """
class M(torch.nn.Module):
    def forward(self, x: List[str]) -> List[str]:
        return [one + "!" for one in x]
"""


def test_strings(bench):
    """Lists of str, an element for each request of the batch."""
    scripted(bench, STRINGS)
    given = config(("x",), ("y",), input=tensors(("x",), DataType.TYPE_STRING, [1]))
    given.output = outputs(("y",), DataType.TYPE_STRING, [1])
    jobs = [bench.job({"x": np.array([[text]], object)}) for text in (b"a", "ü".encode())]
    executed(bench, given, *jobs)
    assert [bench.outputs(job)["y"].tolist() for job in jobs] == [[[b"a!"]], [["ü!".encode()]]]


def test_strings_that_are_no_text(bench):
    """The request that has them fails, its neighbour does not."""
    scripted(bench, STRINGS)
    given = config(("x",), ("y",), input=tensors(("x",), DataType.TYPE_STRING, [1]))
    given.output = outputs(("y",), DataType.TYPE_STRING, [1])
    good, bad = (bench.job({"x": np.array([[text]], object)}) for text in (b"a", b"\xff"))
    executed(bench, given, good, bad)
    assert bench.outputs(good)["y"].tolist() == [[b"a!"]]
    assert isinstance(bad.fault, InvalidArgument)


@pytest.mark.parametrize("role", ["input", "output"])
def test_strings_of_more_dimensions(bench, role):
    """They are refused at load."""
    given = config(("x",), ("y",))
    getattr(given, role)[0].data_type = DataType.TYPE_STRING
    getattr(given, role)[0].dims = [2, 2]
    assert f"Triton only supports 1 dimensional List of String as {role} for" in refused(bench, given)


@pytest.mark.parametrize("kind", ["UINT16", "UINT32", "UINT64"])
def test_datatypes_that_pytorch_lacks(bench, kind):
    given = config(("x",), ("y",))
    given.input[0].data_type = DataType[f"TYPE_{kind}"]
    assert refused(bench, given) == f"unsupported datatype TYPE_{kind} for input 'x' for model 'm'"


def test_a_model_that_writes_to_its_inputs(bench):
    """What a caller holds does not change."""
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x.add_(1)\n")
    job = bench.job({"x": X})
    executed(bench, config(("x",), ("y",)), job)
    np.testing.assert_array_equal(bench.outputs(job)["y"], X + 1)
    np.testing.assert_array_equal(job.request.inputs["x"].numpy(), X)


@pytest.mark.parametrize(
    "returned",
    ["{'y': x}", "[x]", "1.0", "x.tolist()[0]"],
)
def test_results_of_other_forms(bench, returned):
    """A dictionary, a list, a number: none of it is an output."""
    kinds = {"{'y': x}": "Dict[str, torch.Tensor]", "[x]": "List[torch.Tensor]", "1.0": "float"}
    annotation = kinds.get(returned, "List[float]")
    body = returned if returned in kinds else "[1.0]"
    source = f"class M(torch.nn.Module):\n    def forward(self, x) -> {annotation}:\n        return {body}\n"
    scripted(bench, source)
    (job,) = executed(bench, config(("x",), ("y",)), bench.job({"x": X}))
    assert isinstance(job.fault, ModelFailure)
    assert job.fault.message.startswith("output must be of type Tensor, List[str] or Tuple containing one of these two")


def test_another_datatype_than_configured(bench):
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x.to(torch.int64)\n")
    (job,) = executed(bench, config(("x",), ("y",)), bench.job({"x": X}))
    assert job.fault.message == "configuration expects datatype TYPE_FP32 for output 'y', model provides TYPE_INT64"


def test_too_few_results(bench):
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x\n")
    (job,) = executed(bench, config(("x",), ("y", "z")), bench.job({"x": X}))
    assert "there is none for output 'z'" in job.fault.message


def test_a_model_that_raises(bench, caplog):
    """Its text reaches the caller, and only the request that is to blame."""
    source = """
    class M(torch.nn.Module):
        def forward(self, x):
            if bool((x < 0).any()):
                raise ValueError("below zero")
            return x
    """
    scripted(bench, source)
    good, bad = bench.job({"x": X}), bench.job({"x": -X})
    executed(bench, config(("x",), ("y",)), good, bad)
    np.testing.assert_array_equal(bench.outputs(good)["y"], X)
    assert bad.fault.message.startswith("PyTorch execute failure: ")
    assert "below zero" in bad.fault.message


# Files


def test_files_that_are_not_there(bench):
    bench.context(config())
    assert refused(bench, config(), Unavailable) == f"unable to find '{bench.path}/1/model.pt' for model instance 'm'"


def test_files_that_are_none(bench):
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / "model.pt").write_bytes(b"junk")
    assert refused(bench, config(), Internal).startswith("failed to load model 'm': ")


def test_a_configuration_without_tensors(bench):
    """The file does not say what they are."""
    scripted(bench, ADD_SUB)
    assert "its configuration must" in refused(bench, config((), ()))


def test_an_exported_program(bench):
    """A .pt2 of torch.export, by argument names and by order."""
    (bench.path / "1").mkdir(parents=True)
    size = torch.export.Dim("size")
    examples = (torch.ones(2, 2), torch.ones(2, 2))
    program = torch.export.export(AddSub(), examples, dynamic_shapes=({0: size}, {0: size}))
    torch.export.save(program, bench.path / "1" / "model.pt2")
    for names in (("b", "a"), ("INPUT__1", "INPUT__0")):
        given = config(names, platform="torch_aoti")
        jobs = [bench.job({names[1]: X, names[0]: Y}) for _ in range(3)]
        executed(bench, given, *jobs)
        for job in jobs:
            np.testing.assert_array_equal(bench.outputs(job)["DIFFERENCE"], X - Y)


def test_a_module_of_a_python_file(bench):
    """A class of model.py with the state of model.pt."""
    (bench.path / "1").mkdir(parents=True)
    source = """
    import torch
    from torch import nn
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.ones(1))
        def forward(self, x):
            return x * self.by
    """
    (bench.path / "1" / "model.py").write_text(textwrap.dedent(source))
    torch.save({"by": torch.full((1,), 3.0)}, bench.path / "1" / "model.pt")
    (job,) = executed(bench, config(("x",), ("y",), runtime="model.py"), bench.job({"x": X}))
    np.testing.assert_array_equal(bench.outputs(job)["y"], 3 * X)


def test_a_python_file_without_a_module(bench):
    (bench.path / "1").mkdir(parents=True)
    (bench.path / "1" / "model.py").write_text("from torch.nn import Linear\n")
    assert refused(bench, config(runtime="model.py"), Internal) == "Cannot find a subclass of torch.nn.Module"


# Options


@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize(
    "name",
    ["INFERENCE_MODE", "DISABLE_OPTIMIZED_EXECUTION", "ENABLE_WEIGHT_SHARING", "ENABLE_CACHE_CLEANING"],
)
def test_switches(bench, name, value):
    """Each is taken both ways, and the answers are the same."""
    scripted(bench, ADD_SUB)
    (job,) = executed(bench, config(parameters={name: value}), bench.job({"a": X, "b": Y}))
    np.testing.assert_array_equal(bench.outputs(job)["SUM"], X + Y)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INFERENCE_MODE", "x"),
        ("INTRA_OP_THREAD_COUNT", "0"),
        ("INTER_OP_THREAD_COUNT", "many"),
        ("NUM_THREADS", "99999"),
        ("TORCH_COMPILE_OPTIONAL_PARAMETERS", "{"),
        ("TORCH_COMPILE_OPTIONAL_PARAMETERS", "[]"),
    ],
)
def test_options_that_cannot_be(bench, name, value):
    scripted(bench, ADD_SUB)
    assert f"parameter {name} " in refused(bench, config(parameters={name: value}))


def test_weights_are_shared_where_asked(bench):
    """Instances on one device have one module then, else one each."""
    scripted(bench, ADD_SUB)
    for value in ("true", "false"):
        model = PyTorchBackend().open_model(bench.context(config(parameters={"ENABLE_WEIGHT_SHARING": value})))
        first, second = (model.open_instance(bench.instance(name)) for name in ("m_0_0", "m_0_1"))
        assert (first._call is second._call) is (value == "true")


def test_traced_files(bench):
    """Not only scripted ones."""
    traced(bench, AddSub(), torch.ones(1, 2), torch.ones(1, 2))
    assert zipfile.is_zipfile(bench.path / "1" / "model.pt")
    (job,) = executed(bench, config(), bench.job({"a": X, "b": Y}))
    np.testing.assert_array_equal(bench.outputs(job)["SUM"], X + Y)


# Sequences


def sequences(**fields):
    start = ModelSequenceBatchingControl(kind=ModelSequenceBatchingControlKind.CONTROL_SEQUENCE_START)
    start.fp32_false_true = [0.0, 1.0]
    return ModelSequenceBatching(
        control_input=[ModelSequenceBatchingControlInput(name="START__1", control=[start])], **fields
    )


def test_controls_have_indexes(bench):
    scripted(bench, ADD_SUB)
    given = config(("a__0",), sequence_batching=sequences())
    given.sequence_batching.control_input[0].name = "START"
    assert refused(bench, given) == "input 'START' does not follow <name>__<index> naming convention."


def test_states_have_indexes(bench):
    scripted(bench, ADD_SUB)
    state = ModelSequenceBatchingState(input_name="S", output_name="T__1", data_type=FP32, dims=[1])
    given = config(("a__0",), ("y__0",), sequence_batching=sequences(state=[state]))
    assert "is using sequence batching with state but not all inputs and outputs" in refused(bench, given)


# --- On devices


class OnDevice:
    """A result in a GPU's memory, and what becomes of it."""

    is_cuda = True
    shape, dtype = (1,), "f4"

    def __init__(self, name):
        self.name = name

    def detach(self):
        return self


def test_outputs_are_waited_for_once():
    """Goal: all copies from the device are under way before its stream is waited for; what is on the host stays."""
    seen = []

    class Landed:
        def copy_(self, source, *, non_blocking):
            assert non_blocking
            seen.append(source.name)

    def empty(shape, *, dtype, pin_memory):
        assert (shape, dtype, pin_memory) == ((1,), "f4", True)
        return Landed()

    stream = SimpleNamespace(synchronize=lambda: seen.append("waited"))
    results = {"a": OnDevice("a"), "text": ["x"], "b": OnDevice("b")}
    found = to_host(SimpleNamespace(Tensor=OnDevice, empty=empty), results, stream)
    assert seen == ["a", "b", "waited"]
    assert (list(found), found["text"]) == (["a", "text", "b"], ["x"])
    assert to_host(SimpleNamespace(Tensor=OnDevice), {"text": ["x"]}, None) == {"text": ["x"]}


@pytest.mark.parametrize("name", ["FP32", "BF16", "INT64"])
def test_inputs_go_through_pinned_memory(name):
    """Goal: an input is copied once into memory that the device copies by itself, without anybody waiting."""
    kind = BY_NAME[name]
    array = np.arange(4).astype(kind.dtype)
    array.flags.writeable = False
    device = SimpleNamespace(type="cuda")

    class Pinned:
        def __init__(self, tensor):
            self.tensor = tensor
            self.numpy = tensor.numpy

        def to(self, target, *, non_blocking):
            assert (target, non_blocking) == (device, True)
            return self.tensor

    def empty(shape, *, dtype, pin_memory):
        assert pin_memory
        return Pinned(torch.empty(shape, dtype=dtype))

    stand_in = SimpleNamespace(from_numpy=torch.from_numpy, empty=empty, bfloat16=torch.bfloat16)
    tensor = to_torch(stand_in, array, kind, device)
    assert tensor.dtype == {"FP32": torch.float32, "BF16": torch.bfloat16, "INT64": torch.int64}[name]
    assert tensor.view(torch.int16 if name == "BF16" else tensor.dtype).tolist() == array.tolist()


class Region:
    """Memory that is a device's, as far as anybody can tell: an array's."""

    on_device = True

    def __init__(self, array):
        self.array, self.byte_size = array, array.nbytes
        self.reads = 0

    def find(self, place, is_input):
        return self

    def read(self):
        self.reads += 1
        return memoryview(bytearray(self.array.tobytes()))

    def read_to_device(self, device_id, address, size):
        assert size <= self.byte_size
        ctypes.memmove(address, self.array.ctypes.data, size)

    def write_from_device(self, device_id, address, size):
        assert size <= self.byte_size
        ctypes.memmove(self.array.ctypes.data, address, size)


def on_regions(bench, source, kind, *, target=None, **request):
    job = bench.job({"x": source}, **request)
    job.request.shared = SharedUse(Region(source))
    job.request.inputs["x"] = job.request.shared.input("x", kind, source.shape, None)
    if target is not None:
        job.request.shared._regions = Region(target)
        job.request.shared.output("y", None)
    return job


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", ["FP32", "BF16", "INT64"])
def test_tensors_that_stay_on_the_device(bench, kind):
    """Goal: inputs come from their callers' regions and outputs go there without the host, each job's rows to its own.
    Method: a CPU that is taken for a device."""
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x + x\n")
    wanted = DataType[f"TYPE_{kind}"]
    instance = opened(bench, config(input=tensors(["x"], wanted), output=outputs(["y"], wanted)))
    instance._regions = RegionCopies(instance._gatherer, instance._scatterer, 0)
    dtype = BY_NAME[kind].dtype
    sources = [np.arange(4 * rows).reshape(rows, 4).astype(dtype) for rows in (1, 2)]
    if kind == "BF16":
        sources = [(rows.astype(np.float32).view(np.uint32) >> 16).astype(dtype) for rows in sources]
    targets = [np.zeros_like(rows) for rows in sources]
    jobs = [on_regions(bench, rows, kind, target=target) for rows, target in zip(sources, targets, strict=True)]
    instance.execute(bench.batch(*jobs))
    for job, rows, target in zip(jobs, sources, targets, strict=True):
        assert job.fault is None, job.fault
        (output,) = job.response.outputs
        assert (output.name, output.datatype, output.shape, bytes(output.memory())) == ("y", kind, rows.shape, b"")
        doubled = rows + rows
        if kind == "BF16":
            numbers = (rows.astype(np.uint32) << 16).view(np.float32) * 2
            doubled = (numbers.view(np.uint32) >> 16).astype(dtype)
        np.testing.assert_array_equal(target, doubled)


@pytest.mark.interpreted
def test_tensors_that_come_to_the_host(bench):
    """Goal: where somebody's input is elsewhere, or a result is not laid out row by row, the answers are the same."""
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x.t().contiguous().t()\n")
    instance = opened(bench, config(["x"], ["y"]))
    instance._regions = RegionCopies(instance._gatherer, instance._scatterer, 0)
    rows, target = np.arange(4, dtype=np.float32).reshape(2, 2), np.zeros((2, 2), np.float32)
    jobs = [on_regions(bench, rows, "FP32", target=target), bench.job({"x": rows + 1})]
    instance.execute(bench.batch(*jobs))
    np.testing.assert_array_equal(bench.outputs(jobs[0])["y"], rows)
    np.testing.assert_array_equal(bench.outputs(jobs[1])["y"], rows + 1)
    assert not target.any()


def test_files_of_torch_tensorrt(bench, monkeypatch):
    """A file that PyTorch does not understand and Torch-TensorRT does is read again when that is there; else the
    message names it."""
    scripted(bench, "class M(torch.nn.Module):\n    def forward(self, x):\n        return x\n")
    wanted = config(["x"], ["y"])
    load, known = torch.jit.load, set()

    def alone(*arguments, **options):
        if "torch_tensorrt" not in sys.modules or sys.modules["torch_tensorrt"] is None:
            raise RuntimeError("Unknown type name '__torch__.torch.classes.tensorrt.Engine'")
        known.add("tensorrt")
        return load(*arguments, **options)

    monkeypatch.setattr(torch.jit, "load", alone)
    message = refused(bench, wanted, Unavailable)
    assert "its file was compiled by Torch-TensorRT" in message
    assert "pip install torch-tensorrt" in message

    def find(name, *_):
        if name == "torch_tensorrt":
            monkeypatch.setitem(sys.modules, name, SimpleNamespace())
        return sys.modules[name]

    monkeypatch.setattr(files.importlib, "import_module", find)
    PyTorchBackend().open_model(bench.context(wanted))
    assert known == {"tensorrt"}


def test_files_for_compute_capabilities(bench):
    """On a GPU the file that the configuration has for such, on CPUs and others the default."""
    capability = SimpleNamespace(cuda=SimpleNamespace(get_device_capability=lambda device: (9, 0)))
    wanted = config(cc_model_filenames={"9.0": "hopper.pt"})
    assert files._for_device(capability, wanted, torch.device("cuda:0")) == "hopper.pt"
    assert files._for_device(capability, wanted, torch.device("cpu")) == ""
    assert files._for_device(capability, config(cc_model_filenames={"7.5": "x.pt"}), torch.device("cuda:0")) == ""
