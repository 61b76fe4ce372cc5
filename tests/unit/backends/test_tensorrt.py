"""The TensorRT backend over stand-ins for TensorRT and CUDA, which have what the real ones have and nothing else."""

import ctypes
import inspect
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import trio
from despina.backends import device
from despina.backends.tensorrt import TensorRTBackend
from despina.backends.tensorrt.execution import Allocation, make_allocator
from despina.backends.tensorrt.graphs import Captured
from despina.backends.tensorrt.graphs import choose as choose_graph
from despina.backends.tensorrt.messages import Errors, make_logger
from despina.backends.tensorrt.profiles import choose, distance, misfit
from despina.backends.tensorrt.signature import Profile, Range, Signature
from despina.engine.request import cuda_region
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, Unavailable
from despina.schema.shared_memory import SharedUse
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelInstanceGroup,
    ModelInstanceGroupKind,
    ModelOptimizationPolicy,
    ModelOptimizationPolicyCuda,
    ModelOptimizationPolicyCudaGraphSpec,
    ModelOptimizationPolicyCudaGraphSpecLowerBound,
    ModelOptimizationPolicyCudaGraphSpecShape,
    ModelOptimizationPolicyPinnedMemoryBuffer,
    ModelOutput,
    ModelParameter,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.backends import fake_cuda
from tests.unit.backends import fake_tensorrt as fake

RECORD = json.loads((Path(__file__).parent / "recorded_apis.json").read_text())
SINGLE = [{"IN": ((1, 4), (4, 4), (8, 4))}]


def doubling(**options):
    """OUT = 2 * IN, up to 8 rows of 4."""
    return fake.Plan(
        [fake.Tensor("IN", "FLOAT", (-1, 4))],
        [fake.Tensor("OUT", "FLOAT", (-1, 4))],
        options.pop("profiles", SINGLE),
        lambda inputs: {"OUT": inputs["IN"] * 2},
        lambda shapes, values: {"OUT": shapes["IN"]},
        **options,
    )


@pytest.fixture
def cuda():
    return fake_cuda.Late()


@pytest.fixture
def trt(cuda, monkeypatch):
    """The modules `tensorrt` and `cupy`."""
    made = fake.Module(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=cuda)))
    return made


def configuration(inputs=(), outputs=(), **fields):
    """Tensors as (name, type, dims)."""
    fields.setdefault("instance_group", [group()])
    return ModelConfig(
        name="m",
        platform="tensorrt_plan",
        backend="tensorrt",
        input=[ModelInput(name=n, data_type=DataType[f"TYPE_{t}"], dims=list(d)) for n, t, d in inputs],
        output=[ModelOutput(name=n, data_type=DataType[f"TYPE_{t}"], dims=list(d)) for n, t, d in outputs],
        **fields,
    )


def group(**fields):
    return ModelInstanceGroup(name="m_0", count=1, **{"kind": ModelInstanceGroupKind.GPU, "gpus": [0], **fields})


def doubler(**fields):
    fields.setdefault("max_batch_size", 8)
    return configuration([("IN", "FP32", [4])], [("OUT", "FP32", [4])], **fields)


def write(bench, trt, plan, file="model.plan"):
    (bench.path / "1").mkdir(parents=True, exist_ok=True)
    (bench.path / "1" / file).write_bytes(file.encode())
    trt.plans[file.encode()] = plan


def opened(bench, config, *, profiles=(), device=0, **context):
    model = TensorRTBackend().open_model(bench.context(config, **context))
    return model, model.open_instance(attrs.evolve(bench.instance(kind="GPU", device_id=device), profiles=profiles))


def refused(bench, config, fault=InvalidArgument, **context):
    with pytest.raises(fault) as caught:
        TensorRTBackend().open_model(bench.context(config, **context))
    return caught.value.message


def rows(count, start=0, width=4):
    return np.arange(start, start + count * width, dtype=np.float32).reshape(count, width)


# --- The stand-ins


@pytest.mark.parametrize("name", ["Runtime", "ICudaEngine", "IExecutionContext", "ILogger", "IOutputAllocator"])
def test_the_stand_in_has_only_what_tensorrt_has(name):
    """Goal: what the backend calls exists, with the parameters that it gives, in both releases that were recorded."""
    record = RECORD["tensorrt"][name]
    for member, value in vars(getattr(fake, name)).items():
        if member.startswith("_"):
            continue
        assert member in record, f"TensorRT's {name} has no {member}"
        if inspect.isfunction(value):
            parameters = list(inspect.signature(value).parameters)[1:]
            assert any([each.rstrip("?") for each in form] == parameters for form in record[member]), member


def test_the_backends_subclasses_fit_tensorrt(trt, cuda):
    """Goal: what TensorRT calls on the backend's own classes is there, with its parameters."""
    for made, name in (
        (make_logger(trt, Errors()), "ILogger"),
        (make_allocator(trt, Allocation(None)), "IOutputAllocator"),
    ):
        for member, forms in RECORD["tensorrt"][name].items():
            if member != "__init__" and isinstance(forms, list):
                assert list(inspect.signature(getattr(made, member)).parameters) in forms


def test_members_and_constants_exist():
    """Goal: enumerations have the names that the backend asks for, cupy the numbers."""
    for kind in ("TensorIOMode", "TensorLocation", "TensorFormat", "ExecutionContextAllocationStrategy", "DataType"):
        for member in getattr(fake, kind).__members__:
            assert RECORD["tensorrt"][kind].get(member) == "member", (kind, member)
    assert RECORD["tensorrt"]["Runtime"]["engine_host_code_allowed"] == "settable"
    assert RECORD["tensorrt"]["module"]["init_libnvinfer_plugins"] == [["logger", "namespace"]]
    for name, value in RECORD["cupy_constants"].items():
        assert getattr(fake_cuda.Late, name) == value
    for name, value in vars(fake_cuda.Late).items():
        if inspect.isfunction(value) and name in RECORD["cupy_runtime"]:
            wanted = [each.rstrip("?") for each in RECORD["cupy_runtime"][name]]
            assert list(inspect.signature(value).parameters)[-len(wanted) or 99 :] == wanted, name


@pytest.mark.parametrize("module", [device, cuda_region])
def test_every_function_of_the_runtime_is_recorded(module):
    """Goal: no call of cupy's runtime that its record does not know."""
    names = re.findall(r"runtime\.(\w+)\b", Path(module.__file__).read_text())
    assert len(names) > 5
    for name in names:
        assert name in RECORD["cupy_runtime"] or name in RECORD["cupy_constants"], name


# --- Opening


def test_without_tensorrt(bench, monkeypatch):
    """The message names what to install, for either package."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "pip install 'despina[tensorrt]'" in refused(bench, doubler(), Unavailable)
    assert TensorRTBackend().config_summary() == "tensorrt is not installed (pip install 'despina[tensorrt]')"


def test_without_cupy_or_a_gpu(bench, trt, cuda, monkeypatch):
    """Each says what is missing."""
    write(bench, trt, doubling())
    monkeypatch.setattr(cuda, "getDeviceCount", lambda: 0)
    assert refused(bench, doubler(), Unavailable) == "unable to load model 'm': there is no GPU 0, of 0"
    monkeypatch.setattr(cuda, "getDeviceCount", lambda: 1 / 0)
    assert "no GPU can be used: division by zero" in refused(bench, doubler(), Unavailable)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert re.search(r"cupy cannot be imported .*despina\[tensorrt\]", refused(bench, doubler(), Unavailable))


def test_instances_on_the_cpu(bench, trt):
    """No plan runs there."""
    text = "unable to load model 'm', TensorRT backend supports only GPU device"
    assert refused(bench, doubler(instance_group=[group(kind=ModelInstanceGroupKind.CPU, gpus=[])])) == text
    write(bench, trt, doubling())
    model = TensorRTBackend().open_model(bench.context(doubler(instance_group=[])))
    with pytest.raises(InvalidArgument, match=text):
        model.open_instance(bench.instance())


def test_files(bench, trt):
    """A missing one is named, one that is no plan has TensorRT's words, one for the device goes before the default."""
    assert re.search("unable to find '.*model.plan' for model instance 'm'", refused(bench, doubler(), Unavailable))
    (bench.path / "1" / "model.plan").write_bytes(b"garbage")
    assert refused(bench, doubler(), Internal) == (
        "unable to create TensorRT engine for model 'm': magicTag does not match"
    )
    trt.refuses = "runtime"
    assert refused(bench, doubler(), Internal) == "unable to create TensorRT engine for model 'm': cannot runtime"
    write(bench, trt, doubling(), "hopper.plan")
    opened(bench, doubler(cc_model_filenames={"9.0": "hopper.plan", "7.5": "turing.plan"}))


def test_one_engine_for_each_device(bench, trt):
    """Instances on a device share its weights; a second device has its own."""
    write(bench, trt, doubling())
    model = TensorRTBackend().open_model(
        bench.context(doubler(instance_group=[group(gpus=[0, 1])]), backend_config={"version-compatible": "true"})
    )
    for number in (0, 0, 1):
        model.open_instance(bench.instance(kind="GPU", device_id=number))
    assert [each for each in trt.created if isinstance(each, bool)] == [True, True]


@pytest.mark.parametrize("strategy", ["STATIC", "ON_PROFILE_CHANGE"])
def test_context_strategies(bench, trt, strategy):
    """The parameter reaches TensorRT."""
    write(bench, trt, doubling())
    name = "execution_context_allocation_strategy"
    opened(bench, doubler(parameters={name: ModelParameter(string_value=strategy)}))
    assert trt.created[-1] == strategy


@pytest.mark.parametrize(
    ("settings", "parameters", "expected"),
    [
        ({}, {"execution_context_allocation_strategy": "USER"}, "expected one of STATIC, ON_PROFILE_CHANGE for"),
        ({"execution-policy": "FAST"}, {}, "execution-policy of tensorrt must be DEVICE_BLOCKING or BLOCKING"),
        ({"version-compatible": "perhaps"}, {}, "version-compatible of tensorrt must be 'true' or 'false'"),
        ({"coalesce-request-input": "2"}, {}, "coalesce-request-input of tensorrt must be 'true' or 'false'"),
    ],
)
def test_options_that_cannot_be(bench, trt, settings, parameters, expected):
    """Refused by name."""
    write(bench, trt, doubling())
    given = {key: ModelParameter(string_value=text) for key, text in parameters.items()}
    assert expected in refused(bench, doubler(parameters=given), backend_config=settings)


def test_plugins(bench, trt):
    """Libraries are loaded once, before the plan; one that is none is named."""
    write(bench, trt, doubling())
    message = refused(bench, doubler(), Internal, backend_config={"plugins": "libm.so.6;/nowhere/plugin.so"})
    assert message.startswith("unable to load model 'm': plugin '/nowhere/plugin.so' of tensorrt: ")
    opened(bench, doubler(), backend_config={"plugins": "libm.so.6;"})


# --- Completing and checking


def test_completes_everything(bench, trt):
    """The profiles say how large batches get, the plan what the tensors are."""
    write(bench, trt, doubling())
    config = opened(bench, configuration())[0].config
    assert config.max_batch_size == 8
    assert config.dynamic_batching.preferred_batch_size == [8]
    assert [(one.name, one.data_type, one.dims) for one in (*config.input, *config.output)] == [
        ("IN", DataType.TYPE_FP32, [4]),
        ("OUT", DataType.TYPE_FP32, [4]),
    ]


def test_completes_missing_fields(bench, trt):
    """Of a tensor that is named the rest is filled in; what is there stays."""
    write(bench, trt, doubling())
    config = configuration(max_batch_size=4)
    config.input = [ModelInput(name="IN", dims=[4])]
    completed = opened(bench, config)[0].config
    assert (completed.input[0].data_type, completed.output[0].dims) == (DataType.TYPE_FP32, [4])
    assert completed.max_batch_size == 4


def test_whole_dims_mean_no_batching(bench, trt):
    """Dims of the plan's own rank are a model that does not batch."""
    write(bench, trt, doubling())
    config = opened(bench, configuration([("IN", "FP32", [-1, 4])], [("OUT", "FP32", [-1, 4])]))[0].config
    assert (config.max_batch_size, config.dynamic_batching) == (0, None)


def fixed():
    return fake.Plan(
        [fake.Tensor("IN", "FLOAT", (4,))],
        [fake.Tensor("OUT", "FLOAT", (4,))],
        [{"IN": ((4,), (4,), (4,))}],
        lambda inputs: {"OUT": inputs["IN"] + 1},
        lambda shapes, values: {"OUT": (4,)},
    )


def test_plans_that_do_not_batch(bench, trt):
    """Completed whole; a batch size is refused, also one that the dims hint at."""
    write(bench, trt, fixed())
    model, instance = opened(bench, configuration())
    assert (model.config.max_batch_size, model.config.input[0].dims) == (0, [4])
    job = bench.job({"IN": np.ones(4, np.float32)}, batching=False)
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["OUT"].tolist() == [2] * 4
    assert refused(bench, configuration(max_batch_size=2), Internal) == (
        "autofill failed for model 'm': model tensor shape configuration hints for dynamic batching but the underlying "
        "engine doesn't support batching."
    )


def test_larger_batches_than_the_profiles(bench, trt):
    """Refused with and without completion, of the profiles that the instances use."""
    write(bench, trt, doubling())
    assert refused(bench, doubler(max_batch_size=9), Internal) == (
        "autofill failed for model 'm': configuration specified max-batch 9 but TensorRT engine only supports "
        "max-batch 8"
    )
    assert "the plan's profiles take 8 rows at most" in refused(bench, doubler(max_batch_size=9), auto_complete=False)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([("X", "FP32", [4])], [("OUT", "FP32", [4])], "unexpected inference input 'X', allowed inputs are: IN"),
        ([("IN", "FP32", [4])], [("Y", "FP32", [4])], "unexpected inference output 'Y', allowed outputs are: OUT"),
        (
            [("IN", "FP16", [4])],
            [],
            "configuration expects datatype TYPE_FP16 for input 'IN', model provides TYPE_FP32",
        ),
        ([("IN", "FP32", [5])], [], "model 'm', tensor 'IN': the model expects 2 dimensions (shape [-1,4]) but"),
        ([], [("OUT", "FP32", [4])], "configuration expects 0 inputs, model provides 1"),
    ],
)
def test_configurations_that_do_not_fit(bench, trt, inputs, outputs, expected):
    """Refused by name, in the words of the other backends."""
    write(bench, trt, doubling())
    assert expected in refused(bench, configuration(inputs, outputs, max_batch_size=8), auto_complete=False)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (fake.Tensor("IN", "FP8", (-1, 4)), "unsupported type FP8 of input 'IN'"),
        (fake.Tensor("IN", "FLOAT", (-1, 4), layout=fake.TensorFormat.CHW32), "input 'IN' is not of linear format"),
    ],
)
def test_tensors_that_cannot_be_served(bench, trt, tensor, expected):
    """Datatypes that the protocol lacks, and layouts."""
    plan = doubling()
    plan.inputs["IN"] = tensor
    write(bench, trt, plan)
    assert expected in refused(bench, configuration())


def test_profiles_that_the_plan_lacks(bench, trt):
    """Refused by the group's name."""
    write(bench, trt, doubling())
    assert refused(bench, doubler(instance_group=[group(profile=["1"])])) == (
        "unable to load model 'm': instance group m_0 asks for optimization profile 1, the plan has 1"
    )


# --- Executing


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("apart", [False, True], ids=["one stream", "a stream for outputs"])
def test_batches(bench, trt, cuda, pinned, apart):
    """Alone and together, with pinned memory and without; answers stay what they were; all memory comes back."""
    write(bench, trt, doubling())
    buffer = ModelOptimizationPolicyPinnedMemoryBuffer(enable=pinned)
    policy = ModelOptimizationPolicy(
        input_pinned_memory=buffer,
        output_pinned_memory=buffer,
        cuda=ModelOptimizationPolicyCuda(output_copy_stream=apart, busy_wait_events=True),
    )
    _, instance = opened(bench, doubler(optimization=policy))
    jobs = [bench.job({"IN": rows(count, start)}) for count, start in ((1, 0), (2, 10), (3, 20), (1, 30))]
    instance.execute(bench.batch(jobs[0]))
    batch = bench.batch(*jobs[1:])
    instance.execute(batch)
    for job, (count, start) in zip(jobs, ((1, 0), (2, 10), (3, 20), (1, 30)), strict=True):
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(count, start) * 2)
    assert batch.inputs_ready_ns <= batch.outputs_started_ns
    instance.close()
    instance.close()
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


def test_the_nearest_profile(bench, trt):
    """Of the instance's profiles the one that is made for such batches; none that takes them is the request's fault."""
    profiles = [{"IN": ((1, 4), (1, 4), (2, 4))}, {"IN": ((1, 4), (8, 4), (8, 4))}, {"IN": ((1, 4), (64, 4), (64, 4))}]
    write(bench, trt, doubling(profiles=profiles))
    config = doubler(instance_group=[group(profile=["0", "1"])])
    _, instance = opened(bench, config, profiles=("0", "1"))
    for count in (1, 2, 3, 8):
        job = bench.job({"IN": rows(count)})
        instance.execute(bench.batch(job))
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(count) * 2)
    job = bench.job({"IN": rows(9)})
    instance.execute(bench.batch(job))
    assert job.fault.message == (
        "request specifies invalid shape for input 'IN': model expected the shape of dimension 0 to be between 1 and 8 "
        "but received 9"
    )


def test_requested_outputs_only(bench, trt):
    """Others are not copied."""
    plan = doubling()
    plan.outputs["MORE"] = fake.Tensor("MORE", "INT64", (-1,))
    plan.compute = lambda inputs: {"OUT": inputs["IN"] * 2, "MORE": inputs["IN"].sum(axis=1)}
    plan.shapes = lambda shapes, values: {"OUT": shapes["IN"], "MORE": shapes["IN"][:1]}
    write(bench, trt, plan)
    model, instance = opened(bench, configuration())
    assert (model.config.output[1].dims, model.config.output[1].reshape.shape) == ([1], [])
    jobs = [bench.job({"IN": rows(1)}, outputs=["MORE"]), bench.job({"IN": rows(2)})]
    instance.execute(bench.batch(*jobs))
    assert list(bench.outputs(jobs[0])) == ["MORE"]
    assert bench.outputs(jobs[0])["MORE"].tolist() == [[6]]
    assert bench.outputs(jobs[1])["MORE"].tolist() == [[6], [22]]


def test_outputs_whose_size_their_values_say(bench, trt, cuda):
    """TensorRT asks for the memory, and tells the shape; larger answers get more."""
    plan = fake.Plan(
        [fake.Tensor("IN", "FLOAT", (-1,))],
        [fake.Tensor("OUT", "INT64", (-1,))],
        [{"IN": ((1,), (4,), (64,))}],
        lambda inputs: {"OUT": np.flatnonzero(inputs["IN"])},
        lambda shapes, values: {"OUT": (-1,)},
    )
    write(bench, trt, plan)
    config = configuration([("IN", "FP32", [-1])], [("OUT", "INT64", [-1])])
    _, instance = opened(bench, config)
    jobs = [bench.job({"IN": np.array(values, np.float32)}, batching=False) for values in ([0, 1], [1] * 64, [0])]
    for job in jobs:
        instance.execute(bench.batch(job))
    assert [bench.outputs(job)["OUT"].tolist() for job in jobs] == [[1], list(range(64)), []]
    instance.close()
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


def test_a_batch_that_fails(bench, trt, caplog):
    """It is executed again in halves; who fails is told TensorRT's reason, and the instance serves on."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler())
    jobs = [bench.job({"IN": rows(1)}) for _ in range(2)]
    trt.refuses = "enqueue"
    instance.execute(bench.batch(*jobs))
    for job in jobs:
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(1) * 2)
    trt.refuses = "enqueue"
    job = bench.job({"IN": rows(1)})
    instance.execute(bench.batch(job))
    assert isinstance(job.fault, ModelFailure)
    assert job.fault.message == "failed to run TensorRT inference: cannot enqueue"
    assert "cannot enqueue" in caplog.text


def test_a_device_that_fails(bench, trt, cuda, monkeypatch):
    """What CUDA raises while it is waited for fails the batch in words."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler())
    monkeypatch.setattr(cuda, "eventSynchronize", lambda event: 1 / 0)
    job = bench.job({"IN": rows(1)})
    instance.execute(bench.batch(job))
    assert job.fault.message == "failed to run TensorRT inference: division by zero"


@pytest.mark.parametrize("what", ["context", "bind"])
def test_an_instance_that_does_not_open(bench, trt, cuda, what):
    """It says why, and gives back what it had."""
    write(bench, trt, doubling())
    model = TensorRTBackend().open_model(bench.context(doubler()))
    trt.refuses = what
    with pytest.raises((Internal, ModelFailure), match=f": cannot {what}"):
        model.open_instance(bench.instance(kind="GPU"))
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


# --- Batches ahead


class Answer:
    """Takes what a deferred job answers."""

    def __init__(self, job):
        self.job, self.come = job, threading.Event()

    def respond(self, outputs, parameters=None):
        self.outputs = {tensor.name: tensor.numpy() for tensor in outputs}
        self.come.set()

    def fail(self, fault):
        self.fault = fault
        self.come.set()


def deferring(bench, array):
    job = bench.job({"IN": array})
    job.late = Answer(job)
    job.defer = lambda: job.late
    return job


def ahead(**fields):
    return doubler(optimization=ModelOptimizationPolicy(eager_batching=True), **fields)


@pytest.mark.interpreted
def test_the_next_batch_is_begun_while_one_executes(bench, trt, cuda, monkeypatch):
    """Goal: execute returns when its batch is on its way, and no third begins while two are. Method: a device that
    is not done before the test says so."""
    write(bench, trt, doubling())
    _, instance = opened(bench, ahead())
    done, waiting = threading.Semaphore(0), threading.Event()
    finish = cuda.eventSynchronize
    monkeypatch.setattr(cuda, "eventSynchronize", lambda event: (waiting.set(), done.acquire(), finish(event)))
    jobs = [deferring(bench, rows(2, number)) for number in range(3)]
    for job in jobs[:2]:
        instance.execute(bench.batch(job))
        assert job.response is None
    assert waiting.wait(20)
    third = threading.Thread(target=instance.execute, args=(bench.batch(jobs[2]),))
    third.start()
    assert not jobs[0].late.come.is_set()
    assert third.is_alive()
    done.release(100)
    third.join(20)
    for number, job in enumerate(jobs):
        assert job.late.come.wait(20)
        np.testing.assert_array_equal(job.late.outputs["OUT"], rows(2, number) * 2)
    instance.close()
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


@pytest.mark.interpreted
def test_closing_answers_everybody(bench, trt, cuda):
    """Goal: a batch that is on its way when the model is unloaded is answered, and nothing is left."""
    write(bench, trt, doubling())
    _, instance = opened(bench, ahead())
    jobs = [deferring(bench, rows(1, number)) for number in range(20)]
    for job in jobs:
        instance.execute(bench.batch(job))
    instance.close()
    assert all(job.late.come.is_set() for job in jobs)
    np.testing.assert_array_equal(jobs[19].late.outputs["OUT"], rows(1, 19) * 2)
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


@pytest.mark.interpreted
def test_what_fails_ahead(bench, trt, cuda, monkeypatch):
    """Goal: what is refused before it begins fails at once, alone; what fails on the device later, and both lanes
    serve on."""
    write(bench, trt, doubling())
    _, instance = opened(bench, ahead())
    job = bench.job({"IN": rows(9)})
    instance.execute(bench.batch(job))
    assert "between 1 and 8 but received 9" in job.fault.message
    finish = cuda.eventSynchronize
    monkeypatch.setattr(cuda, "eventSynchronize", lambda event: 1 / 0)
    job = deferring(bench, rows(1))
    instance.execute(bench.batch(job))
    assert job.late.come.wait(20)
    assert job.late.fault.message == "failed to run TensorRT inference: division by zero"
    monkeypatch.setattr(cuda, "eventSynchronize", finish)
    for number in range(3):
        job = deferring(bench, rows(1, number))
        instance.execute(bench.batch(job))
        assert job.late.come.wait(20)
        np.testing.assert_array_equal(job.late.outputs["OUT"], rows(1, number) * 2)
    instance.close()


async def test_batches_ahead_in_an_engine(tmp_path, trt, cuda, monkeypatch):
    """Goal: the engine's callers get their own answers, whichever thread makes them, also when the model is unloaded
    in between."""
    import despina

    monkeypatch.setattr("despina.engine.repository.loader.find_gpus", lambda: [0])
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.plan").write_bytes(b"model.plan")
    trt.plans[b"model.plan"] = doubling()
    (tmp_path / "m" / "config.pbtxt").write_text('platform: "tensorrt_plan" optimization { eager_batching: true }')
    async with despina.open_engine(tmp_path, model_control_mode="explicit", load_model=["m"]) as engine:
        answers = {}

        async def ask(number):
            result = await engine.infer("m", {"IN": rows(1, number)})
            answers[number] = result["OUT"]

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(ask, number)
            await engine.unload("m")
    for number in range(100):
        np.testing.assert_array_equal(answers[number], rows(1, number) * 2)
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


# --- Shape tensors


def sized():
    """OUT has the size that the second value of SIZE says; DONE says which sizes they were."""
    return fake.Plan(
        [fake.Tensor("IN", "FLOAT", (-1, 1)), fake.Tensor("SIZE", "INT64", (2,), is_shape=True)],
        [fake.Tensor("OUT", "FLOAT", (-1, -1)), fake.Tensor("DONE", "INT64", (2,), is_shape=True)],
        [{"IN": ((1, 1), (4, 1), (8, 1)), "SIZE": ((2,), (2,), (2,))}],
        lambda inputs: {"OUT": np.broadcast_to(inputs["IN"], tuple(inputs["SIZE"])), "DONE": inputs["SIZE"]},
        lambda shapes, values: {"OUT": tuple(values["SIZE"]), "DONE": (2,)},
        values=[{"SIZE": ((1, 1), (4, 2), (8, 6))}],
    )


def test_shape_tensors(bench, trt):
    """Equal in a batch but for the first value, which is the batch's size, and in each answer the request's own."""
    write(bench, trt, sized())
    model, instance = opened(bench, configuration())
    assert [(one.name, one.dims, one.is_shape_tensor) for one in (*model.config.input, *model.config.output)] == [
        ("IN", [1], False),
        ("SIZE", [1], True),
        ("OUT", [-1], False),
        ("DONE", [1], True),
    ]
    jobs = [
        bench.job({"IN": np.full((count, 1), count, np.float32), "SIZE": np.array([count, 5])}) for count in (1, 1, 2)
    ]
    instance.execute(bench.batch(*jobs))
    for job, count in zip(jobs, (1, 1, 2), strict=True):
        assert bench.outputs(job)["OUT"].tolist() == [[count] * 5] * count
        assert bench.outputs(job)["DONE"].tolist() == [count, 5]
    job = bench.job({"IN": np.ones((1, 1), np.float32), "SIZE": np.array([1, 7])})
    instance.execute(bench.batch(job))
    assert job.fault.message == (
        "request specifies invalid shape value for input 'SIZE': model expected the shape value at index 1 to be "
        "between 1 and 6 but received 7"
    )


# --- CUDA graphs


def graphs(*specs, **fields):
    cuda = ModelOptimizationPolicyCuda(graphs=True, graph_spec=list(specs), **fields)
    return ModelOptimizationPolicy(cuda=cuda)


def spec(size, lowest=None, **dims):
    shapes = {name: ModelOptimizationPolicyCudaGraphSpecShape(dim=list(dim)) for name, dim in dims.items()}
    bound = None
    if lowest is not None:
        bound = ModelOptimizationPolicyCudaGraphSpecLowerBound(batch_size=lowest, input=shapes)
    return ModelOptimizationPolicyCudaGraphSpec(batch_size=size, input=shapes, graph_lower_bound=bound)


def test_graphs_of_usual_sizes(bench, trt, cuda):
    """Batches of one, of the preferred sizes and of the largest are launched, others enqueued; answers are the same."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler(optimization=graphs()))
    launches = []
    for count in range(1, 9):
        job = bench.job({"IN": rows(count, count)})
        before = cuda.launches
        instance.execute(bench.batch(job))
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(count, count) * 2)
        if cuda.launches > before:
            launches.append(count)
    assert launches == [1, 8]
    instance.close()
    assert cuda.leftovers() == (0, 0, 0, 0, 0)


def test_graphs_with_a_lower_bound(bench, trt, cuda):
    """A batch goes into the smallest graph that takes it, with zeros behind, and its answer is its own size."""
    seen = []
    plan = doubling()
    plan.compute = lambda inputs: (seen.append(inputs["IN"].copy()), {"OUT": inputs["IN"] * 2})[1]
    write(bench, trt, plan)
    _, instance = opened(bench, doubler(optimization=graphs(spec(4, 2), spec(8, 2))))
    for count, graph in ((1, 1), (2, 4), (3, 4), (5, 8), (2, 4)):
        job = bench.job({"IN": rows(count, 1)})
        instance.execute(bench.batch(job))
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(count, 1) * 2)
        assert len(seen[-1]) == graph
        assert not seen[-1][count:].any()
    assert cuda.launches == 4


def test_graphs_of_open_shapes(bench, trt, cuda):
    """With a smaller last dimension the rows of the graph are longer than the batch's: both are laid out right."""
    plan = doubling(profiles=[{"IN": ((1, 1), (4, 4), (8, 4))}])
    plan.inputs["IN"] = fake.Tensor("IN", "FLOAT", (-1, -1))
    plan.outputs["OUT"] = fake.Tensor("OUT", "FLOAT", (-1, -1))
    write(bench, trt, plan)
    bound = ModelOptimizationPolicyCudaGraphSpecLowerBound(
        batch_size=1, input={"IN": ModelOptimizationPolicyCudaGraphSpecShape(dim=[1])}
    )
    wanted = spec(4, IN=[4])
    wanted.graph_lower_bound = bound
    config = configuration([("IN", "FP32", [-1])], [("OUT", "FP32", [-1])], max_batch_size=8)
    config.optimization = graphs(wanted)
    _, instance = opened(bench, config)
    for count, width in ((2, 3), (4, 4), (1, 1)):
        job = bench.job({"IN": rows(count, width=width)})
        instance.execute(bench.batch(job))
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(count, width=width) * 2)
    assert cuda.launches == 3


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (spec(0), "graph_spec 0: expected a batch_size from 1 to 8, got 0"),
        (spec(9), "graph_spec 0: expected a batch_size from 1 to 8, got 9"),
        (spec(2, 3), "graph_spec 0: graph_lower_bound must not be above the specification"),
        (spec(2, X=[4]), "graph_spec 0: the model has no input 'X'"),
        (spec(2, IN=[5]), "graph_spec 0: input 'IN' has dims [4], got [5]"),
        (spec(2, IN=[]), "graph_spec 0: input 'IN' has dims [4], got []"),
    ],
)
def test_specifications_that_cannot_be(bench, trt, wanted, expected):
    """Refused at load, by number."""
    write(bench, trt, doubling())
    assert expected in refused(bench, doubler(optimization=graphs(wanted)))


def test_graphs_and_shape_tensors(bench, trt):
    """Do not go together: refused at load."""
    write(bench, trt, sized())
    assert "CUDA graphs cannot be used with shape tensors" in refused(bench, configuration(optimization=graphs()))


def test_graphs_of_open_shapes_need_a_specification(bench, trt, cuda, caplog):
    """None is captured, which is said; the model serves."""
    plan = doubling()
    plan.inputs["IN"].shape = (-1, -1)
    plan.outputs["OUT"].shape = (-1, -1)
    write(bench, trt, plan)
    config = configuration([("IN", "FP32", [-1])], [("OUT", "FP32", [-1])], max_batch_size=8, optimization=graphs())
    _, instance = opened(bench, config)
    assert "CUDA graphs need a graph_spec" in caplog.text
    job = bench.job({"IN": rows(2)})
    instance.execute(bench.batch(job))
    assert (cuda.launches, bench.outputs(job)["OUT"].shape) == (0, (2, 4))


# --- Into regions on the device


class Regions:
    """Where outputs go: memory of the device, with what was written to it, or the host's."""

    def __init__(self, cuda, *, on_device=True, size=64, data=b""):
        self.cuda, self.on_device, self.byte_size, self.data = cuda, on_device, size, data
        self.written = []

    def find(self, place, is_input):
        return self

    def read_to_device(self, device_id, address, size):
        assert device_id == 0
        self.cuda.check_device(address, size)
        ctypes.memmove(address, self.data, size)

    def read(self):
        return memoryview(bytearray(self.data))

    def write_from_device(self, device_id, address, size):
        self.cuda.check_device(address, size)
        self.written.append((device_id, ctypes.string_at(address, size)))


def shared_job(bench, regions, array, **request):
    job = bench.job({"IN": array}, **request)
    job.request.shared = SharedUse(regions)
    job.request.shared.output("OUT", None)
    return job


@pytest.mark.interpreted
def test_outputs_straight_into_regions(bench, trt, cuda):
    """Goal: an output that its callers want on the device never comes to the host. Method: all of a batch want it."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler())
    regions = [Regions(cuda), Regions(cuda)]
    jobs = [shared_job(bench, region, rows(count, count)) for count, region in zip((1, 2), regions, strict=True)]
    copied = []
    original = cuda.memcpyAsync
    cuda.memcpyAsync = lambda *call: (copied.append(call[3]), original(*call))
    instance.execute(bench.batch(*jobs))
    assert cuda.memcpyDeviceToHost not in copied
    for job, region, count in zip(jobs, regions, (1, 2), strict=True):
        assert region.written == [(0, (rows(count, count) * 2).tobytes())]
        (output,) = job.response.outputs
        assert (output.name, output.shape, bytes(output.memory())) == ("OUT", (count, 4), b"")


@pytest.mark.interpreted
@pytest.mark.parametrize("why", ["too small", "on the host", "not all"])
def test_outputs_through_the_host(bench, trt, cuda, why):
    """Where it does not go straight the answer has the bytes; the engine puts them where they belong, or refuses."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler())
    regions = Regions(cuda, on_device=why != "on the host", size=8 if why == "too small" else 64)
    jobs = [shared_job(bench, regions, rows(1))]
    if why == "not all":
        jobs.append(bench.job({"IN": rows(1)}))
    instance.execute(bench.batch(*jobs))
    assert regions.written == []
    np.testing.assert_array_equal(bench.outputs(jobs[0])["OUT"], rows(1) * 2)


@pytest.mark.interpreted
def test_who_has_left_is_not_written_to(bench, trt, cuda):
    """A caller that left before the copy finds its region as it was."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler())
    regions = Regions(cuda)
    job = shared_job(bench, regions, rows(1))
    job.is_cancelled = lambda: True
    instance.execute(bench.batch(job))
    assert regions.written == []


def resident_job(bench, regions, array):
    job = bench.job({"IN": array})
    job.request.shared = SharedUse(regions)
    regions.data = array.tobytes()
    job.request.inputs["IN"] = job.request.shared.input("IN", "FP32", array.shape, None)
    return job


@pytest.mark.interpreted
@pytest.mark.parametrize("captured", [False, True], ids=["enqueued", "graphs"])
def test_inputs_straight_from_regions(bench, trt, cuda, captured):
    """Goal: an input that lies on the device never comes to the host, alone and in a batch; a graph of just that size
    is used, a larger one is not. Where somebody's lies elsewhere all go through the host."""
    write(bench, trt, doubling())
    _, instance = opened(bench, doubler(optimization=graphs(spec(1), spec(8, 2)) if captured else None))
    copied = []
    original = cuda.memcpyAsync
    cuda.memcpyAsync = lambda *call: (copied.append(call[3]), original(*call))
    for counts, launches in (((1,), 1), ((1, 2), 0), ((8,), 1)):
        copied.clear()
        before = cuda.launches
        jobs = [resident_job(bench, Regions(cuda, size=128), rows(count, count)) for count in counts]
        instance.execute(bench.batch(*jobs))
        assert cuda.memcpyHostToDevice not in copied
        for job, count in zip(jobs, counts, strict=True):
            np.testing.assert_array_equal(bench.outputs(job)["OUT"], rows(count, count) * 2)
        assert cuda.launches - before == (launches if captured else 0)
    jobs = [resident_job(bench, Regions(cuda), rows(1)), bench.job({"IN": rows(1, 5)})]
    instance.execute(bench.batch(*jobs))
    np.testing.assert_array_equal(bench.outputs(jobs[0])["OUT"], rows(1) * 2)
    np.testing.assert_array_equal(bench.outputs(jobs[1])["OUT"], rows(1, 5) * 2)


# --- Datatypes


@pytest.mark.parametrize("kind", ["FLOAT", "HALF", "INT8", "UINT8", "INT32", "INT64", "BOOL", "BF16"])
def test_every_datatype(bench, trt, kind):
    """Goes in and comes out as it is."""
    plan = doubling()
    plan.inputs["IN"] = fake.Tensor("IN", kind, (-1, 4))
    plan.outputs["OUT"] = fake.Tensor("OUT", kind, (-1, 4))
    plan.compute = lambda inputs: {"OUT": inputs["IN"]}
    write(bench, trt, plan)
    model, instance = opened(bench, configuration())
    name = model.config.input[0].data_type.name.removeprefix("TYPE_")
    array = np.array([[0, 1, 1, 0]], fake.DTYPES[kind])
    jobs = [bench.job({"IN": Tensor("IN", name, (1, 4), array.tobytes())}) for _ in range(2)]
    instance.execute(bench.batch(*jobs))
    for job in jobs:
        np.testing.assert_array_equal(bench.outputs(job)["OUT"], array)
        assert job.response.outputs[0].datatype == name


def test_signatures_say_what_the_plan_says(trt):
    """Profiles with ranges of sizes and of values, tensors with their places."""
    signature = Signature.of(trt, fake.ICudaEngine(trt, None, sized()))
    assert signature.profiles[0].values["SIZE"].highest == (8, 6)
    assert signature.profiles[0].shapes["IN"].optimal == (4, 1)
    assert signature.can_batch()
    assert signature.max_batch_size([0]) == 8


# --- Choosing


SIZES = st.integers(1, 9)


@st.composite
def several_profiles(draw):
    """Up to four of one input of two dimensions."""
    made = []
    for index in range(draw(st.integers(1, 4))):
        ranges = [sorted(draw(st.tuples(SIZES, SIZES, SIZES))) for _ in range(2)]
        made.append(Profile(index, {"IN": Range(*zip(*ranges, strict=True))}, {}))
    return made


@given(several_profiles(), st.tuples(SIZES, SIZES))
def test_any_profiles(profiles, shape):
    """The one chosen takes the shape, and none that takes it is nearer; where none takes it, that is said."""
    fitting = [profile for profile in profiles if not misfit(profile, {"IN": shape}, {})]
    by_hand = [
        profile
        for profile in profiles
        if all(
            low <= size <= high
            for low, size, high in zip(profile.shapes["IN"].lowest, shape, profile.shapes["IN"].highest, strict=True)
        )
    ]
    assert fitting == by_hand
    if not fitting:
        with pytest.raises(InvalidArgument, match="model expected the shape of dimension"):
            choose(profiles, {"IN": shape}, {})
        return
    chosen = choose(profiles, {"IN": shape}, {})
    assert chosen in fitting
    assert distance(chosen, {"IN": shape}, {}) == min(distance(one, {"IN": shape}, {}) for one in fitting)


@st.composite
def several_graphs(draw):
    made = []
    for _ in range(draw(st.integers(0, 4))):
        bounds = [sorted(draw(st.tuples(SIZES, SIZES))) for _ in range(2)]
        lowest, highest = zip(*bounds, strict=True)
        made.append(Captured({"IN": highest}, {"IN": lowest}))
    return made


@given(several_graphs(), st.tuples(SIZES, SIZES))
def test_any_graphs(captured, shape):
    """The one chosen has room for the shape in each dimension, its bound allows it, and none has less to spare."""
    chosen = choose_graph(captured, {"IN": shape})
    taking = [one for one in captured if one.takes({"IN": shape})]
    if chosen is None:
        assert taking == []
        return
    assert all(
        low <= size <= high for low, size, high in zip(chosen.lowest["IN"], shape, chosen.shapes["IN"], strict=True)
    )
    assert sum(chosen.shapes["IN"]) == min(sum(one.shapes["IN"]) for one in taking)
