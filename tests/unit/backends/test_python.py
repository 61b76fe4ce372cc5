"""Whole-backend tests: real model.py files, jobs made by hand. Texts are those of the reference server."""

import json
import logging
import sys
import textwrap
import threading

import attrs
import numpy as np
import pytest
from despina.backends.python import PythonBackend, triton_python_backend_utils
from despina.schema.datatype import TABLE
from despina.schema.fault import Internal, InvalidArgument, ModelFailure, NotFound, Unsupported
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelOutput,
    ModelParameter,
    ModelSequenceBatching,
    ModelTransactionPolicy,
)

from .portal import PortalBackend, close_all

HEAD = "import json\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n"
ANSWER = "pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.array([[1]], np.int32))])"
ONE = np.array([[5]], np.int32)


def configuration(**fields):
    return ModelConfig(
        name="m",
        backend="python",
        max_batch_size=4,
        input=[ModelInput(name="IN", data_type=DataType.TYPE_INT32, dims=[1])],
        output=[
            ModelOutput(name="OUT", data_type=DataType.TYPE_INT32, dims=[1]),
            ModelOutput(name="S", data_type=DataType.TYPE_STRING, dims=[1]),
        ],
        **fields,
    )


def write(bench, source, file="1/model.py"):
    path = bench.path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


def write_methods(bench, methods):
    """A model with these methods."""
    return write(bench, f"{HEAD}class TritonPythonModel:\n{textwrap.indent(textwrap.dedent(methods), '    ')}")


def write_execute(bench, body):
    return write_methods(bench, "def execute(self, requests):\n" + textwrap.indent(textwrap.dedent(body), "    "))


def opened(bench, config=None, **instance):
    model = PythonBackend().open_model(bench.context(config or configuration()))
    return model.open_instance(bench.instance(**instance))


ABOUT_THIS_PROCESS = {
    "test_large_fresh_outputs_are_not_copied",
    "test_sending_too_late",
    "test_where_a_model_may_run",
    "test_which_instances_may_not_run_inline",
    "test_modules_are_forgotten",
    "test_summary_names_the_interpreter",
}


def pytest_generate_tests(metafunc):
    """All but these hold for models in the server's process and in processes of their own."""
    isolated = ["isolated"] if metafunc.definition.originalname not in ABOUT_THIS_PROCESS else []
    metafunc.parametrize("where", ["in process", *isolated], indirect=True)


@pytest.fixture(autouse=True)
def where(request, monkeypatch):
    if request.param == "isolated":
        monkeypatch.setattr(sys.modules[__name__], "PythonBackend", PortalBackend)
    yield
    close_all()


@pytest.fixture
def run(bench):
    """Writes a model with this body of execute, executes jobs on it, returns them."""

    def run(body, *jobs):
        write_execute(bench, body)
        jobs = jobs or (bench.job({"IN": ONE}),)
        opened(bench).execute(bench.batch(*jobs))
        return jobs

    return run


def failure(run, body, *jobs):
    with pytest.raises(ModelFailure) as caught:
        run(body, *jobs)
    prefix = "Failed to process the request(s) for model 'm_0_0', message: "
    assert caught.value.message.startswith(prefix)
    assert caught.value.http_status == 500
    return caught.value.message.removeprefix(prefix)


# Execution


def test_batch_of_requests(bench, run):
    """Each request is an object of its own, with its own rows, and gets its own answer."""
    jobs = [bench.job({"IN": np.full((n, 1), n, np.int32)}) for n in (1, 2)]
    run(
        """
        out = []
        for r in requests:
            x = pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x * 10)]))
        return out
        """,
        *jobs,
    )
    assert bench.outputs(jobs[0])["OUT"].tolist() == [[10]]
    assert bench.outputs(jobs[1])["OUT"].tolist() == [[20], [20]]


def test_strings_come_as_bytes_and_leave_as_anything(bench, run):
    """BYTES arrive as objects of bytes; str, bytes and fixed-width arrays are accepted back."""
    job = bench.job({"IN": np.array([["é".encode(), b"\xff"]], object)})
    run(
        """
        x = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()
        assert x.dtype == object and x[0, 0] == "é".encode() and type(x[0, 1]) is bytes
        return [pb_utils.InferenceResponse([
            pb_utils.Tensor("S", np.array([["é", b"raw", 7]], object)),
            pb_utils.Tensor("OUT", np.array([b"ab", b"c"])),
        ])]
        """,
        job,
    )
    outputs = bench.outputs(job)
    assert outputs["S"].tolist() == [["é".encode(), b"raw", b"7"]]
    assert outputs["OUT"].tolist() == [b"ab", b"c"]


@pytest.mark.parametrize("row", [row for row in TABLE if row.name not in ("BF16", "BYTES")], ids=lambda row: row.name)
def test_datatypes_round_trip(bench, run, row):
    """Every numeric type goes in and out as it is, and says its number."""
    job = bench.job({"IN": np.array([[0, 1]]).astype(row.dtype)})
    run(
        f"""
        t = requests[0].inputs()[0]
        assert t.triton_dtype() == {row.number} and t.shape() == [1, 2] and t.is_cpu() and t.name() == "IN"
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", t.as_numpy())])]
        """,
        job,
    )
    assert job.response.outputs[0].datatype == row.name
    assert bench.outputs(job)["OUT"].tolist() == [[0, 1]]


def test_callers_arrays_are_never_written(bench, run):
    """A caller in this process passes its own writable array; a model that writes its input does not change it."""
    mine = np.array([[5]], np.int32)
    job = bench.job({"IN": ONE})
    job.request.inputs["IN"] = Tensor.of("IN", mine)
    run("x = requests[0].inputs()[0].as_numpy()\nx += 1\nreturn None", job)
    assert mine.tolist() == [[5]]


def test_inputs_may_be_written(bench, run):
    """A model may change its input in place although the request's bytes are read-only, and they do not change."""
    job = bench.job({"IN": ONE})
    run(
        """
        t = pb_utils.get_input_tensor_by_name(requests[0], "IN")
        x = t.as_numpy()
        x += 1
        assert t.as_numpy() is x
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)])]
        """,
        job,
    )
    assert bench.outputs(job)["OUT"].tolist() == [[6]]
    assert job.request.inputs["IN"].numpy().tolist() == [[5]]


@pytest.mark.parametrize("size", [4, 1 << 20])
def test_answers_do_not_change_after_execute(bench, size):
    """A model that returns the same buffer each time does not change answers that are still being sent."""
    write_methods(
        bench,
        f"""
        def initialize(self, args):
            self.buffer = np.zeros((1, {size}), np.int32)
        def execute(self, requests):
            self.buffer += 1
            view = self.buffer[:, 1:]
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.buffer), pb_utils.Tensor("V", view)])]
        """,
    )
    config = configuration()
    config.output.append(ModelOutput(name="V", data_type=DataType.TYPE_INT32, dims=[-1]))
    instance = opened(bench, config)
    jobs = [bench.job({"IN": ONE}) for _ in range(2)]
    for job in jobs:
        instance.execute(bench.batch(job))
    assert [bench.outputs(job)[name][0, 0] for job in jobs for name in ("OUT", "V")] == [1, 1, 2, 2]


def test_large_fresh_outputs_are_not_copied(bench):
    """A large array that only the response refers to is handed over as it is, and so is a passed-through input."""
    write_execute(
        bench,
        """
        import sys
        x = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()
        fresh = np.ones((1, 1 << 18), np.int32)
        sys.modules["__main__"].addresses = [fresh.ctypes.data, x.ctypes.data]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", fresh), pb_utils.Tensor("S", x)])]
        """,
    )
    job = bench.job({"IN": np.zeros((1, 1 << 18), np.int32)})
    wire = job.request.inputs["IN"]
    job.request.inputs["IN"] = Tensor("IN", "INT32", wire.shape, memory=bytearray(wire.memory()))
    opened(bench).execute(bench.batch(job))
    outputs = bench.outputs(job)
    addresses = sys.modules["__main__"].__dict__.pop("addresses")
    assert [outputs["OUT"].ctypes.data, outputs["S"].ctypes.data] == addresses


def test_only_requested_outputs(bench, run):
    """Outputs nobody asked for, and outputs that the configuration does not have, are dropped silently."""
    body = """
        return [pb_utils.InferenceResponse([
            pb_utils.Tensor(n, np.zeros((1, 1), np.int32)) for n in ("S", "NOPE", "OUT")]) for r in requests]
        """
    some = bench.job({"IN": ONE}, outputs=["OUT"])
    everything = bench.job({"IN": ONE})
    run(body, some, everything)
    assert list(bench.outputs(some)) == ["OUT"]
    assert list(bench.outputs(everything)) == ["S", "OUT"]


def test_request_properties(bench, run):
    """Everything that a request object tells, for a request that has everything."""
    job = bench.job(
        {"IN": ONE},
        id="rid",
        parameters={"x": 1, "y": "s", "z": True},
        timeout_us=77,
        correlation_id="c",
        sequence_start=True,
        sequence_end=True,
        outputs=["S"],
    )
    run(
        """
        r = requests[0]
        d = [r.request_id(), r.correlation_id(), r.flags(), r.timeout(), r.parameters(),
             sorted(r.requested_output_names()), r.is_cancelled(), [t.name() for t in r.inputs()],
             pb_utils.get_input_tensor_by_name(r, "NOPE"), r.trace().get_context()]
        r.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("S", np.array([json.dumps(d)], object))])]
        """,
        job,
    )
    text = bench.outputs(job)["S"][0].decode()
    assert text == ('["rid", "c", 3, 77, "{\\"x\\":1,\\"y\\":\\"s\\",\\"z\\":true}", ["S"], false, ["IN"], null, null]')


def test_cancelled_requests_say_so(bench, run):
    """A model can see that a caller has left."""
    job = bench.job({"IN": ONE})
    job.on_done = None
    run("return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(requests[0].is_cancelled())))]", job)
    assert job.fault.message == "True"


def test_response_parameters(bench, run):
    """Parameters of a response reach the caller."""
    (job,) = run("return [pb_utils.InferenceResponse([], parameters={'a': 1, 'b': 'x', 'c': True})]")
    assert job.response.parameters == {"a": 1, "b": "x", "c": True}
    assert job.response.outputs == []


def test_errors_per_request(bench, run):
    """An error answers its request alone, with its text unchanged and its code's status."""
    jobs = [bench.job({"IN": ONE}) for _ in range(3)]
    run(
        f"""
        return [
            pb_utils.InferenceResponse(error=pb_utils.TritonError("my text")),
            pb_utils.InferenceResponse([], pb_utils.TritonError("not here", pb_utils.TritonError.NOT_FOUND)),
            {ANSWER},
        ]
        """,
        *jobs,
    )
    assert (type(jobs[0].fault), jobs[0].fault.message) == (ModelFailure, "my text")
    assert (type(jobs[1].fault), jobs[1].fault.message) == (NotFound, "not here")
    assert bench.outputs(jobs[2])["OUT"].tolist() == [[1]]


def test_coroutines(bench):
    """An async execute runs to its end, on a loop that lasts as long as the instance."""
    write_methods(
        bench,
        f"""
        loops = set()
        async def execute(self, requests):
            import asyncio
            self.loops.add(id(asyncio.get_running_loop()))
            await asyncio.sleep(0)
            assert len(self.loops) == 1
            return [{ANSWER} for r in requests]
        """,
    )
    instance = opened(bench)
    for _ in range(2):
        job = bench.job({"IN": ONE})
        instance.execute(bench.batch(job))
        assert bench.outputs(job)["OUT"].tolist() == [[1]]
    instance.close()


# Violations


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return ()", "Expected a list in the execute return, found type '<class 'tuple'>'."),
        (
            "return []",
            "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n",
        ),
        (
            "return [3]",
            "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'int'>'.",
        ),
    ],
)
def test_wrong_returns(run, body, expected):
    """Each violation of the return rules fails the batch with its text."""
    assert failure(run, body) == expected


@pytest.mark.parametrize("body", ["return None", "return [None]"])
def test_requests_left_without_an_answer(bench, run, body):
    """The reference server never answers these; here they fail, and nobody hangs."""
    (job,) = run(body)
    assert job.fault.message.endswith("the execute function returned without a response to this request")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("ValueError('bad\\nthing')", "ValueError: bad\nthing"),
        ("RuntimeError", "RuntimeError: <EMPTY MESSAGE>"),
        ("pb_utils.TritonModelException('tme')", "TritonModelException: tme"),
        ("SystemExit(3)", "SystemExit: 3"),
        ("GeneratorExit", "GeneratorExit: <EMPTY MESSAGE>"),
        ("__import__('asyncio').CancelledError('x')", "CancelledError: x"),
        ("KeyError('k')", "KeyError: 'k'"),
    ],
)
def test_exceptions_in_execute(bench, run, caplog, raised, expected):
    """Type, text and the model's frames, innermost first, for the client; the traceback in the log only."""
    with caplog.at_level(logging.ERROR, "despina.backends.python"):
        text = failure(run, f"def inner():\n    raise {raised}\ninner()")
    file = bench.path / "1" / "model.py"
    assert text == f"{expected}\n\nAt:\n  {file}(7): inner\n  {file}(8): execute\n"
    assert "Traceback" in caplog.text


def test_instance_survives_every_exception(bench):
    """After a failed batch the next one is served, async or not."""
    write_execute(
        bench,
        f"""
        if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0, 0] == 5:
            raise SystemExit(1)
        return [{ANSWER} for r in requests]
        """,
    )
    instance = opened(bench)
    with pytest.raises(ModelFailure):
        instance.execute(bench.batch(bench.job({"IN": ONE})))
    job = bench.job({"IN": ONE + 1})
    instance.execute(bench.batch(job))
    assert bench.outputs(job)["OUT"].tolist() == [[1]]


def test_async_exceptions_show_the_model_only(bench):
    """The loop's own frames are not told to the client."""
    path = write_methods(bench, "async def execute(self, requests):\n    raise ValueError('async bad')")
    with pytest.raises(ModelFailure) as caught:
        opened(bench).execute(bench.batch(bench.job({"IN": ONE})))
    assert caught.value.message.endswith(f"message: ValueError: async bad\n\nAt:\n  {path}(6): execute\n")


def test_exception_that_cannot_be_printed(run):
    """An exception whose text raises is still one line to the client."""
    body = "class Nasty(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Nasty"
    assert failure(run, body).startswith("Nasty: <EMPTY MESSAGE>\n\nAt:")


def test_inputs_that_lie_fail_the_request(bench, run):
    """Bytes that are not what the shape promises surface where the model reads them, with the tensor's name."""
    job = bench.job({"IN": ONE})
    job.request.inputs["IN"] = Tensor("IN", "INT32", [1, 1], memory=b"12345678")
    assert "InvalidArgument: tensor 'IN': shape [1, 1] needs 1 elements, got 2" in failure(
        run, "requests[0].inputs()[0].as_numpy()", job
    )


# Response senders


@pytest.mark.parametrize("sends", [f"s.send({ANSWER})\ns.send(flags=1)", f"s.send({ANSWER}, 1)", f"s.send({ANSWER})"])
def test_sender_answers(bench, run, sends):
    """One response and one final flag, together or apart; then None is a legal return."""
    (job,) = run(f"s = requests[0].get_response_sender()\n{sends}\nassert not s.is_cancelled()\nreturn None")
    assert bench.outputs(job)["OUT"].tolist() == [[1]]


def test_senders_first_answer_stands(bench, run):
    """An object returned for a request that was answered already is ignored."""
    error = "pb_utils.InferenceResponse(error=pb_utils.TritonError('late'))"
    (job,) = run(f"requests[0].get_response_sender().send({ANSWER}, 1)\nreturn [{error}]")
    assert bench.outputs(job)["OUT"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("sends", "expected"),
    [
        (f"s.send({ANSWER}, 7)", "Unable to send response. Unsupported flag provided."),
        ("s.send()", "Inference Response object must be provided when the response flags is set to zero."),
        (f"s.send({ANSWER}, 1); s.send(flags=1)", "Unable to send response. Response sender has been closed."),
        (
            f"s.send({ANSWER}); s.send({ANSWER})",
            "Unable to send response. Non-decoupled model cannot send more than one response.",
        ),
        (
            "s.send(flags=1)",
            "Unable to send response. Non-decoupled model cannot send complete final before sending a response.",
        ),
    ],
)
def test_sender_misuse(run, sends, expected):
    """Each wrong use raises in the model with its text."""
    text = failure(run, f"s = requests[0].get_response_sender()\n{sends}\nreturn None")
    assert text.startswith(f"TritonModelException: {expected}\n\nAt:")


# pb_utils


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("pb_utils.Tensor('', np.zeros(1))", "TritonModelException: Tensor name cannot be an empty string."),
        ("pb_utils.Tensor('A', np.zeros(1, 'c8'))", "TritonModelException: NumPy dtype is not supported."),
        ("pb_utils.Tensor('A', [1])", "TypeError: Tensor 'A': expected a numpy array, got <class 'list'>"),
        (
            "pb_utils.InferenceResponse([None])",
            "TritonModelException: Output tensor for inference response should not be empty.",
        ),
        ("pb_utils.InferenceResponse([3])", "TypeError: InferenceResponse()"),
        ("pb_utils.InferenceResponse([], 'text')", "TypeError: InferenceResponse(): expected error"),
        (
            "pb_utils.InferenceResponse([], parameters={1: 1})",
            "TritonModelException: Expect parameters keys to have type str, found type <class 'int'>",
        ),
        (
            "pb_utils.InferenceResponse([], parameters={'a': 1.5})",
            "TritonModelException: Expect parameters values to have type bool/int/str, found type <class 'float'>",
        ),
        ("pb_utils.InferenceResponse([], parameters=3)", "TritonModelException: Expect parameters"),
        ("pb_utils.TritonError('x', 77)", "TypeError: TritonError(): expected code"),
        ("pb_utils.TritonError(3)", "TypeError: TritonError(): expected message"),
        ("pb_utils.Logger.log('x', 9)", "TypeError: log(): expected level"),
        (
            "pb_utils.InferenceRequest(inputs=[None], requested_output_names=[], model_name='q')",
            "TritonModelException: Input tensor for request with id '' and model name 'q' should not be empty.",
        ),
        (
            "pb_utils.InferenceRequest(inputs=[], requested_output_names=[''], model_name='q')",
            "TritonModelException: Requested output name for request with id '' and model name 'q' should not be ",
        ),
        (
            "pb_utils.InferenceRequest('', 1.5, [], [], 'q')",
            "TritonModelException: Correlation ID must be integer or string",
        ),
        (
            "pb_utils.InferenceRequest('', 0, [], [], 'q', parameters={'a': [1]})",
            "TritonModelException: Expect parameters values",
        ),
        (
            "pb_utils.Tensor('A', np.array(['a'], object)).to_dlpack()",
            "TritonModelException: DLPack does not have support for string tensors.",
        ),
        (
            "pb_utils.Tensor.from_dlpack('A', 3)",
            "TritonModelException: Provided tensor is not supported. Tensor must be a DLPack capsule or have "
            "`__dlpack__` and `__dlpack_device__` attributes",
        ),
        (
            "pb_utils.Tensor.from_dlpack('A', np.arange(6).reshape(2, 3).T)",
            "TritonModelException: DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in "
            "C-Order are supported.",
        ),
        ("pb_utils.triton_string_to_numpy('X')", "KeyError: 'X'"),
        (
            "pb_utils.InferenceRequest('', 0, [], [], 'q').exec()",
            "TritonModelException: BLS is only supported during the 'execute' function.",
        ),
        (
            "pb_utils.InferenceRequest('', 0, [], [], 'q').async_exec()",
            "RuntimeError: no running event loop",
        ),
        (
            "pb_utils.InferenceRequest('', 0, [], [], 'q').get_response_sender()",
            "TritonModelException: get_response_sender is only for",
        ),
        ("requests[0].set_flags(1)", "TritonModelException: the flags of a request"),
        (
            "requests[0].set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)",
            "TritonModelException: Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model",
        ),
        (
            "pb_utils.MetricFamily(name='a', description='b', kind=pb_utils.MetricFamily.COUNTER)",
            "TritonModelException: BLS is only supported",
        ),
        ("pb_utils.Metric(3, 4)", "TypeError: Metric(): metrics are made by MetricFamily.Metric"),
        ("pb_utils.load_model('x')", "TritonModelException: BLS is only supported"),
        ("pb_utils.unload_model(3)", "TypeError: unload_model(): expected model_name to be a str"),
        (
            "pb_utils.load_model('x', '', {'file:1/model.py': 3})",
            "TypeError: load_model(): expected files to hold bytes",
        ),
    ],
)
def test_misuse_of_the_helpers(run, expression, expected):
    """Each wrong use raises in the model, with the reference server's text where it has one."""
    assert failure(run, expression).startswith(expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("[pb_utils.triton_to_numpy_type(i) for i in (1, 7, 13, 14)]", "[np.bool_, np.int16, np.object_, None]"),
        (
            "[pb_utils.numpy_to_triton_type(x) for x in (np.float32, np.dtype('i4'), np.bytes_, np.bool_, np.str_)]",
            "[11, 8, 13, 1, None]",
        ),
        ("pb_utils.triton_string_to_numpy('TYPE_FP32')", "np.float32"),
        ("pb_utils.triton_string_to_numpy('TYPE_STRING')", "np.object_"),
        ("pb_utils.triton_string_to_numpy('TYPE_BOOL')", "bool"),
        ("pb_utils.serialize_byte_tensor(np.array([['a', b'b']], object))", r"b'\1\0\0\0a\1\0\0\0b'"),
        ("pb_utils.serialize_byte_tensor(np.array([1.5, 'x'], object))", r"b'\3\0\0\x001.5\1\0\0\0x'"),
        ("pb_utils.serialize_byte_tensor(np.array([1, 2]))", "None"),
        ("pb_utils.serialize_byte_tensor(np.array([], object))", "()"),
        (r"pb_utils.deserialize_bytes_tensor(b'\1\0\0\0a').tolist()", "[b'a']"),
        ("pb_utils.get_output_tensor_by_name(pb_utils.InferenceResponse([]), 'Z')", "None"),
        ("pb_utils.get_output_tensor_by_name(" + ANSWER + ", 'OUT').shape()", "[1, 1]"),
        ("pb_utils.get_input_config_by_name(self.config, 'IN')['data_type']", "'TYPE_INT32'"),
        ("pb_utils.get_output_config_by_name(self.config, 'Z')", "None"),
        ("pb_utils.using_decoupled_model_transaction_policy(self.config)", "False"),
        ("pb_utils.TritonError('x').code()", "pb_utils.TritonError.INTERNAL"),
        ("int(pb_utils.TritonError.CANCELLED)", "7"),
        ("pb_utils.InferenceResponse([], pb_utils.TritonError('x')).error().message()", "'x'"),
        ("pb_utils.InferenceResponse([]).has_error()", "False"),
        ("pb_utils.InferenceResponse([], parameters={'a': 1}).parameters()", "'{\"a\": 1}'"),
        (
            "pb_utils.InferenceRequest('', 0, [], [], 'q', parameters={'a': 1, 'b': True}).parameters()",
            '\'{"a": 1, "b": true}\'',
        ),
        ("pb_utils.Tensor.from_dlpack('A', np.array([True])).as_numpy().tolist()", "[True]"),
        ("pb_utils.Tensor.from_dlpack('A', pb_utils.Tensor('B', np.arange(3)).to_dlpack()).shape()", "[3]"),
        ("np.from_dlpack(requests[0].inputs()[0]).tolist()", "[[5]]"),
        ("requests[0].inputs()[0].__dlpack_device__()", "(1, 0)"),
        ("pb_utils.Tensor('A', np.arange(6).reshape(2, 3).T).as_numpy().flags.c_contiguous", "True"),
        ("isinstance(requests[0], pb_utils.InferenceRequest)", "True"),
        (
            "pb_utils.get_input_tensor_by_name("
            "pb_utils.InferenceRequest('', 0, requests[0].inputs(), [], 'q'), 'IN').shape()",
            "[1, 1]",
        ),
        ("pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU).preferred_device_id", "0"),
    ],
)
def test_helpers(bench, expression, expected):
    """Every helper's value, evaluated inside a model."""
    write_methods(
        bench,
        f"""
        def initialize(self, args):
            self.config = json.loads(args["model_config"])
        def execute(self, requests):
            got = {expression}
            assert got == ({expected}), repr(got)
            return [{ANSWER} for r in requests]
        """,
    )
    job = bench.job({"IN": ONE})
    opened(bench).execute(bench.batch(job))
    assert job.fault is None


def test_bf16_is_refused_with_its_text(bench, run):
    """numpy has no BF16; the text says what to do, and the datatype's number is right."""
    job = bench.job({"IN": Tensor("IN", "BF16", [1, 1], memory=b"\0\0")})
    body = "assert requests[0].inputs()[0].triton_dtype() == 14\nrequests[0].inputs()[0].as_numpy()"
    assert failure(run, body, job).startswith(
        "TritonModelException: Tensor dtype is BF16 and cannot be converted to NumPy. "
        "Use to_dlpack() and from_dlpack() instead."
    )


def test_bf16_through_dlpack(bench, run):
    """A framework reads its numbers, and gives others back: whole tensors, empty ones, and capsules."""
    pytest.importorskip("torch")
    halves = b"\x80\x3f\x00\xc0"  # 1.0, -2.0
    job = bench.job({"IN": Tensor("IN", "BF16", [1, 2], memory=halves)})
    run(
        """
        import torch
        given = torch.from_dlpack(requests[0].inputs()[0])
        assert (given.dtype, given.tolist()) == (torch.bfloat16, [[1.0, -2.0]])
        again = torch.utils.dlpack.from_dlpack(requests[0].inputs()[0].to_dlpack())
        none = pb_utils.Tensor.from_dlpack("E", torch.zeros((0, 2), dtype=torch.bfloat16))
        assert (none.triton_dtype(), none.shape()) == (14, [0, 2])
        capsule = torch.utils.dlpack.to_dlpack(again * 2)
        tensor = pb_utils.Tensor.from_dlpack("OUT", capsule)
        try:
            pb_utils.Tensor.from_dlpack("OUT", capsule)
        except pb_utils.TritonModelException as error:
            assert "cannot make tensor 'OUT' from DLPack" in str(error)
        else:
            raise AssertionError("it was used")
        return [pb_utils.InferenceResponse([tensor])]
        """,
        job,
    )
    (answer,) = job.response.outputs
    assert (answer.datatype, list(answer.shape), bytes(answer.memory())) == ("BF16", [1, 2], b"\x00\x40\x80\xc0")


def test_untouched_inputs_pass_through(bench, run):
    """An input returned as an output, never looked at, keeps its datatype, BF16 too."""
    job = bench.job({"OUT": Tensor("OUT", "BF16", [1, 1], memory=b"\1\2")})
    run("return [pb_utils.InferenceResponse(requests[0].inputs())]", job)
    assert (job.response.outputs[0].datatype, bytes(job.response.outputs[0].memory())) == ("BF16", b"\1\2")


def test_logger(bench, run, caplog):
    """A model's lines reach the log with their level, also through instances of nothing but the class."""
    with caplog.at_level(logging.DEBUG, "despina.model"):
        run(f"""
            log = pb_utils.Logger
            log.log_info("i"); log.log_warn("w"); log.log_error("e"); log.log_verbose("v")
            log.log("100 %s"); log.log("x", log.WARNING)
            return [{ANSWER}]
            """)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "despina.model"]
    assert lines == [
        ("INFO", "i"),
        ("WARNING", "w"),
        ("ERROR", "e"),
        ("DEBUG", "v"),
        ("INFO", "100 %s"),
        ("WARNING", "x"),
    ]


# Loading


def load_failure(bench, config=None, fault=Internal):
    with pytest.raises(fault) as caught:
        opened(bench, config)
    return caught.value.message


def test_arguments_of_initialize(bench):
    """The dict that initialize receives holds exactly these strings."""
    tell = "return [pb_utils.InferenceResponse(error=pb_utils.TritonError(json.dumps(self.args)))]"
    write_methods(bench, f"def initialize(self, args):\n    self.args = args\ndef execute(self, requests):\n    {tell}")
    job = bench.job({"IN": ONE})
    opened(bench, kind="GPU", device_id=3).execute(bench.batch(job))
    args = json.loads(job.fault.message)
    assert args.pop("model_config").startswith('{"name":"m","platform":"","backend":"python"')
    assert args == {
        "model_instance_kind": "GPU",
        "model_instance_name": "m_0_0",
        "model_instance_device_id": "3",
        "model_repository": str(bench.path),
        "model_version": "1",
        "model_name": "m",
    }


def test_missing_file(bench):
    """No model.py is a load error that names the path."""
    assert load_failure(bench) == f"Python model file not found in '{bench.path / '1' / 'model.py'}'"


def test_other_file_name(bench):
    """default_model_filename is honoured, and must be a Python file."""
    write(bench, f"class TritonPythonModel:\n    def execute(self, r):\n        return [{ANSWER}]", "1/other.py")
    opened(bench, configuration(default_model_filename="other.py"))
    assert "must end in '.py'" in load_failure(bench, configuration(default_model_filename="x.txt"), InvalidArgument)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class X(\n", "SyntaxError: '(' was never closed (model.py, line 1)"),
        ("x = 1\n", "AttributeError: module '1.model' has no attribute 'TritonPythonModel'"),
        ("raise OSError('at import')\n", "OSError: at import\n\nAt:\n  {file}(1): <module>\n"),
        (
            "import nosuch\n",
            "ModuleNotFoundError: No module named 'nosuch'\n\nAt:\n  {file}(1): <module>\n",
        ),
        ("raise SystemExit('bye')\n", "SystemExit: bye\n\nAt:\n  {file}(1): <module>\n"),
        (
            "class TritonPythonModel:\n    def __init__(self):\n        raise ValueError('ctor')\n",
            "ValueError: ctor\n\nAt:\n  {file}(3): __init__\n",
        ),
        (
            "class TritonPythonModel:\n    def initialize(self, args):\n        raise ValueError('init bad')\n"
            "    def execute(self, requests):\n        pass\n",
            "ValueError: init bad\n\nAt:\n  {file}(3): initialize\n",
        ),
        (
            "class TritonPythonModel:\n    def initialize(self, args):\n        raise SystemExit('bye')\n"
            "    def execute(self, requests):\n        pass\n",
            "SystemExit: bye\n\nAt:\n  {file}(3): initialize\n",
        ),
        ("class TritonPythonModel:\n    pass\n", "Python model {file} does not implement `execute` method."),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
def test_load_failures(bench, source, expected):
    """What goes wrong while loading is the state reason, with the model's frames; and nothing stays behind."""
    before = set(sys.modules)
    file = write(bench, source)
    assert load_failure(bench).replace(" (model.py, line 1)", "") == expected.format(file=file).replace(
        " (model.py, line 1)", ""
    )
    assert not {name for name in set(sys.modules) - before if name.startswith("despina_model_")}


def test_sources_that_are_not_text(bench):
    """A model.py of arbitrary bytes is a load error, not a crash."""
    write(bench, "").write_bytes(b"\xff\xfe\x00\x01garbage")
    assert load_failure(bench).startswith("SyntaxError: ")


@pytest.mark.parametrize("value", ["yes", "no", "maybe", ""])
def test_inputs_on_the_cpu(bench, value):
    """They are, whatever is asked for; what is no answer to that is refused in the reference server's words."""
    write_execute(bench, "pass")
    config = configuration(parameters={"FORCE_CPU_ONLY_INPUT_TENSORS": ModelParameter(string_value=value)})
    if value in ("yes", "no"):
        assert opened(bench, config)
    else:
        text = f"Incorrect value for FORCE_CPU_ONLY_INPUT_TENSORS: {value}'"
        assert load_failure(bench, config, Unsupported) == text


@pytest.mark.parametrize(("value", "movable"), [("inline", True), ("thread", False), ("auto", False), (None, False)])
def test_where_a_model_may_run(bench, value, movable):
    """Python models keep to their own thread unless the model's parameter says inline."""
    write_execute(bench, "pass")
    parameters = {} if value is None else {"DESPINA_EXECUTOR": ModelParameter(string_value=value)}
    assert opened(bench, configuration(parameters=parameters)).movable is movable


def test_which_instances_may_not_run_inline(bench):
    """Goal: those that the engine leaves to their own threads know it, whatever the parameter says."""
    write_execute(bench, "pass")
    inline = {"DESPINA_EXECUTOR": ModelParameter(string_value="inline")}
    assert not opened(bench, configuration(parameters=inline), kind="GPU").movable
    streams = ModelTransactionPolicy(decoupled=True)
    assert not opened(bench, configuration(parameters=inline, model_transaction_policy=streams)).movable


def test_finalize(bench, caplog):
    """finalize runs at close; what it raises is logged and goes no further."""
    write_methods(bench, "def execute(self, r):\n    pass\ndef finalize(self):\n    raise SystemExit('fin bad')")
    with caplog.at_level(logging.ERROR, "despina.backends.python"):
        opened(bench).close()
    assert "fin bad" in caplog.text


# Modules


def test_models_with_equal_names_do_not_meet(tmp_path, bench):
    """Two models, each with its own helper.py and package, imported absolutely, relatively, early and late."""
    source = HEAD + textwrap.dedent(
        """
        import helper
        import pack.inner
        from pack import inner as again
        from . import helper as relative
        from .pack.inner import NAME

        class TritonPythonModel:
            def initialize(self, args):
                import late
                self.late = late.NAME
            def execute(self, requests):
                import later
                names = [helper.NAME, pack.inner.NAME, again.NAME, relative.NAME, NAME, self.late, later.NAME]
                assert helper.NAME == relative.NAME
                return [pb_utils.InferenceResponse([pb_utils.Tensor("S", np.array(names, object))])]
        """
    )
    answers = []
    for model in ("a", "b"):
        own = attrs.evolve(bench, path=tmp_path / model)
        write(own, source)
        name = f"NAME = '{model}'\n"
        for file in ("1/helper.py", "1/pack/inner.py", "late.py", "later.py"):
            write(own, name, file)
        write(own, "from . import inner\nimport helper\n", "1/pack/__init__.py")
        job = bench.job({"IN": ONE})
        opened(own).execute(bench.batch(job))
        answers.append([item.decode() for item in bench.outputs(job)["S"]])
    assert answers == [["a"] * 7, ["b"] * 7]
    assert not {"helper", "pack", "late", "later"} & set(sys.modules)
    assert not list(tmp_path.rglob("__pycache__"))


def test_installed_modules_win(bench):
    """A file beside the model does not hide an installed module or the standard library."""
    write(bench, "raise AssertionError", "1/json.py")
    write(bench, "raise AssertionError", "1/attrs.py")
    write(bench, f"import attrs, json\nattrs.frozen\n{HEAD}class TritonPythonModel:\n    def execute(self, r): pass")
    opened(bench)


def test_instances_have_their_own_globals(bench):
    """Two instances of one version do not share module globals."""
    answer = "[pb_utils.InferenceResponse(error=pb_utils.TritonError(str(len(count))))]"
    body = f"        count.append(1)\n        return {answer}"
    write(bench, f"{HEAD}count = []\nclass TritonPythonModel:\n    def execute(self, r):\n{body}")
    model = PythonBackend().open_model(bench.context(configuration()))
    texts = []
    for name in ("m_0_0", "m_0_1"):
        job = bench.job({"IN": ONE})
        model.open_instance(bench.instance(name)).execute(bench.batch(job))
        texts.append(job.fault.message)
    assert texts == ["1", "1"]


def test_changed_files_are_read_again(bench):
    """A model rewritten within the clock's resolution is not served from a cache."""
    for text in ("a", "b"):
        write_execute(bench, f"return [pb_utils.InferenceResponse(error=pb_utils.TritonError('{text}'))]")
        job = bench.job({"IN": ONE})
        opened(bench).execute(bench.batch(job))
        assert job.fault.message == text


def test_modules_are_forgotten(bench):
    """After close no module of the model is left in sys.modules."""
    write(bench, "x = 1", "1/helper.py")
    write_execute(bench, "import helper")
    before = set(sys.modules)
    instance = opened(bench)
    assert set(sys.modules) - before
    instance.close()
    assert not {name for name in set(sys.modules) - before if name.startswith("despina_model_")}


def test_model_directory(bench):
    """get_model_dir is the caller's version directory, also on a thread that the model started; elsewhere it raises."""
    write_execute(
        bench,
        """
        import threading
        found = []
        def ask():
            found.append(pb_utils.get_model_dir())
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        ask()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("S", np.array(found, object))])]
        """,
    )
    job = bench.job({"IN": ONE})
    opened(bench).execute(bench.batch(job))
    assert bench.outputs(job)["S"].tolist() == [str(bench.path / "1").encode()] * 2
    with pytest.raises(Exception, match="not called from a model's code"):
        triton_python_backend_utils.get_model_dir()


def test_many_models_load_at_once(tmp_path, bench):
    """Loading on several threads at a time keeps every model's helper its own."""
    answers = {}

    def load(number):
        own = attrs.evolve(bench, path=tmp_path / f"m{number}")
        write(own, f"NAME = '{number}'", "1/helper.py")
        body = "        return [pb_utils.InferenceResponse(error=pb_utils.TritonError(helper.NAME))]"
        write(own, f"import helper\n{HEAD}class TritonPythonModel:\n    def execute(self, r):\n{body}")
        job = bench.job({"IN": ONE})
        opened(own).execute(bench.batch(job))
        answers[number] = job.fault.message

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) for number in range(8)}


# Completion


def completed(bench, body, config=None):
    write_methods(
        bench,
        "@staticmethod\ndef auto_complete_config(c):\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\ndef execute(self, requests):\n    pass",
    )
    return PythonBackend().open_model(bench.context(config or configuration())).config


def test_completes_everything(bench):
    """An empty configuration gets inputs, outputs, batch size, batching and the transaction policy."""
    config = completed(
        bench,
        """
        c.add_input({"name": "A", "data_type": "TYPE_FP32", "dims": [3], "optional": True})
        c.add_output({"name": "B", "data_type": "TYPE_STRING", "dims": [-1]})
        c.set_max_batch_size(7)
        c.set_dynamic_batching()
        c.set_model_transaction_policy({"decoupled": True})
        assert c.as_dict()["max_batch_size"] == 7
        return c
        """,
        ModelConfig(name="m", backend="python"),
    )
    assert config.input == [ModelInput(name="A", data_type=DataType.TYPE_FP32, dims=[3], optional=True)]
    assert config.output == [ModelOutput(name="B", data_type=DataType.TYPE_STRING, dims=[-1])]
    assert config.max_batch_size == 7
    assert config.dynamic_batching.preferred_batch_size == [7]
    assert config.model_transaction_policy.decoupled is True


def test_completion_that_agrees(bench):
    """Repeating what is configured changes nothing; the batch size may grow; a new tensor is added."""
    config = completed(
        bench,
        """
        c.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [1]})
        c.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]})
        c.add_input({"name": "NEW", "data_type": "TYPE_FP32", "dims": [3]})
        c.set_max_batch_size(9)
        return c
        """,
    )
    assert [item.name for item in config.input] == ["IN", "NEW"]
    assert len(config.output) == 2
    assert config.max_batch_size == 9
    assert config.dynamic_batching is None


def test_completion_switched_off(bench):
    """With completion off the function is not called."""
    write_methods(bench, "@staticmethod\ndef auto_complete_config(c):\n    1 / 0\ndef execute(s, r):\n    pass")
    context = bench.context(configuration(), auto_complete=False)
    assert PythonBackend().open_model(context).config is context.config


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise ValueError('ac bad')", "ValueError: ac bad\n\nAt:\n  {file}(7): auto_complete_config\n"),
        (
            "c.add_input({'name': 'IN', 'data_type': 'TYPE_INT32', 'dims': [1], 'zz': 1})",
            "ValueError: input 'IN' in auto-complete-config function for model 'm' contains property other than "
            "'name', 'data_type', 'dims' and 'optional'.",
        ),
        (
            "c.add_output({'name': 'IN', 'data_type': 'TYPE_INT32', 'dims': [1], 'optional': True})",
            "ValueError: output 'IN' in auto-complete-config function for model 'm' contains property other than "
            "'name', 'data_type' and 'dims'.",
        ),
        (
            "c.add_input({'data_type': 'TYPE_INT32', 'dims': [1]})",
            "ValueError: input in auto-complete-config function for model 'm' is missing 'name' property.",
        ),
        (
            "c.add_input({'name': 'IN', 'data_type': 'TYPE_INT32'})",
            "ValueError: input 'IN' in auto-complete-config function for model 'm' is missing 'dims' property.",
        ),
        (
            "c.add_output({'name': 'IN', 'dims': [1]})",
            "ValueError: output 'IN' in auto-complete-config function for model 'm' is missing 'data_type' property.",
        ),
        (
            "c.add_input({'name': 'IN', 'data_type': 'TYPE_FP32', 'dims': [1]})",
            "ValueError: unable to load model 'm', configuration expects datatype TYPE_INT32 for input 'IN', model "
            "provides TYPE_FP32",
        ),
        (
            "c.add_output({'name': 'OUT', 'data_type': 'TYPE_INT32', 'dims': [-1, 2]})",
            "ValueError: model 'm', tensor 'OUT': the model expects dims [-1, 2] but the model configuration specifies "
            "dims [1]",
        ),
        (
            "c.add_input({'name': 'IN', 'data_type': 'TYPE_INT32', 'dims': [1], 'optional': True})",
            "ValueError: model 'm', tensor 'IN': the model expects optional True but the model configuration specifies "
            "optional False",
        ),
        (
            "c.set_max_batch_size(2)",
            "ValueError: configuration specified max_batch_size 4, but in auto-complete-config function for model 'm' "
            "specified max_batch_size 2",
        ),
        (
            "c.set_model_transaction_policy({'x': 1})",
            "ValueError: model transaction property in auto-complete-config function for model 'm' contains property "
            "other than 'decoupled'.",
        ),
    ],
)
def test_completion_conflicts(bench, body, expected):
    """Each conflict is a load error with the reference server's text."""
    with pytest.raises(Internal) as caught:
        completed(bench, body)
    assert caught.value.message.startswith(expected.format(file=bench.path / "1" / "model.py"))


@pytest.mark.parametrize("configured", [False, True])
def test_transaction_policy_is_not_changed(bench, configured):
    """A configured policy, even the default written out, cannot be turned over."""
    config = configuration(model_transaction_policy=ModelTransactionPolicy(decoupled=configured))
    with pytest.raises(Internal, match=f"which is already set to '{configured}'"):
        completed(bench, f"c.set_model_transaction_policy({{'decoupled': {not configured}}})", config)


def test_dynamic_batching_beside_sequences(bench):
    """Another scheduler is not replaced."""
    with pytest.raises(Internal, match="specified scheduling_choice as 'sequence_batching'"):
        completed(bench, "c.set_dynamic_batching()", configuration(sequence_batching=ModelSequenceBatching()))


def test_completion_must_return_the_helper(bench):
    """Forgetting the return is a load error."""
    with pytest.raises(Internal) as caught:
        completed(bench, "pass")
    assert caught.value.message == (
        "auto_complete_config function in model 'm' must return a valid pb.ModelConfig object."
    )


def test_completion_with_impossible_values(bench):
    """Values that no field takes are refused by the field's name."""
    with pytest.raises(InvalidArgument, match="data_type"):
        completed(bench, "c.add_input({'name': 'A', 'data_type': 'FP32', 'dims': [3]})\nreturn c")


def test_summary_names_the_interpreter():
    """The table of backends says which Python runs the models."""
    assert PythonBackend().config_summary().startswith("Python 3")


def test_what_is_left_in_an_input_that_is_passed_on(bench, run):
    """An element that is no string fails its request alone, when the answer is made of it."""
    jobs = [bench.job({"S": np.array([["x"]], object)}, id=name) for name in ("bad", "good")]
    run(
        r"""
        for r in requests:
            text = r.inputs()[0].as_numpy()
            text[0, 0] = "a\udc80b" if r.request_id() == "bad" else "y"
        return [pb_utils.InferenceResponse(r.inputs()) for r in requests]
        """,
        *jobs,
    )
    assert isinstance(jobs[0].fault, ModelFailure)
    assert "UnicodeEncodeError" in jobs[0].fault.message
    assert bench.outputs(jobs[1])["S"].tolist() == [[b"y"]]
