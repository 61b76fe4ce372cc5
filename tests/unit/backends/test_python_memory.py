"""No client reads another's data: what a model may do with its arrays, and which of them are not copied for that."""

import sys
import textwrap

import despina
import numpy as np
import pytest
import trio
from despina.backends.python import PythonBackend
from despina.backends.python.isolated.segments import SegmentPool
from despina.backends.python.memory import COPY_BYTES_MAX, executing
from despina.schema.tensor import Tensor
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelInput,
    ModelOutput,
)

from tests import in_process

HEAD = "import sys\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n"
SMALL, LARGE = 4, COPY_BYTES_MAX // 4 + 1


def write(bench, methods):
    path = bench.path / "1" / "model.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}class TritonPythonModel:\n{textwrap.indent(textwrap.dedent(methods), '    ')}")


def opened(bench, methods, *, kind="INT32"):
    write(bench, methods)
    config = ModelConfig(
        name="m",
        backend="python",
        max_batch_size=8,
        input=[ModelInput(name="IN", data_type=DataType[f"TYPE_{kind}"], dims=[-1])],
        output=[ModelOutput(name=name, data_type=DataType[f"TYPE_{kind}"], dims=[-1]) for name in ("OUT", "TOO", "IN")],
    )
    return PythonBackend().open_model(bench.context(config)).open_instance(bench.instance())


def jobs_of(bench, size, count=4):
    return [bench.job({"IN": np.full((1, size), number, np.int32)}) for number in range(1, count + 1)]


def in_own_body(job):
    """Its input as doors deliver it: over a body that nobody else has."""
    wire = job.request.inputs["IN"]
    job.request.inputs["IN"] = Tensor("IN", wire.datatype, wire.shape, memory=bytearray(wire.memory()))
    return job


def addresses():
    return sys.modules["__main__"].__dict__.setdefault("addresses", [])


@pytest.fixture(autouse=True)
def forget_addresses():
    yield
    addresses().clear()


@pytest.fixture(autouse=True, params=["heap", "rooms"])
def copies(request, monkeypatch):
    """Where copies go: in a model's own process into what the server sees."""
    if request.param == "rooms":
        monkeypatch.setattr(executing, "room", SegmentPool().array_like)


# One array, reused


def test_one_array_of_strings_for_a_whole_batch(bench):
    """Each request gets its own echo although the model puts all of them into one array of objects."""
    instance = opened(
        bench,
        """
        def initialize(self, args):
            self.scratch = np.empty((1, 1), dtype=object)
        def execute(self, requests):
            answers = []
            for request in requests:
                text = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0]
                self.scratch[0, 0] = bytearray(b"echo " + text)
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.scratch)]))
            self.scratch[0, 0][:] = b"gone"
            return answers
        """,
        kind="STRING",
    )
    jobs = [bench.job({"IN": np.array([[text]], object)}) for text in (b"A", b"B", b"C", b"D")]
    instance.execute(bench.batch(*jobs))
    assert [bench.outputs(job)["OUT"].item() for job in jobs] == [b"echo A", b"echo B", b"echo C", b"echo D"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("view", ["self.scratch", "self.scratch[:, ::-1]", "self.scratch[:, :]", "self.scratch.T.T"])
def test_one_array_of_numbers_for_a_whole_batch(bench, size, view):
    """The same for numbers, of any size, where tensors are made in one loop and responses in another."""
    instance = opened(
        bench,
        f"""
        def initialize(self, args):
            self.scratch = np.empty((1, {size}), np.int32)
        def execute(self, requests):
            tensors = []
            for request in requests:
                self.scratch[:] = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
                tensors.append(pb_utils.Tensor("OUT", {view}))
            self.scratch[:] = 99
            return [pb_utils.InferenceResponse([tensor]) for tensor in tensors]
        """,
    )
    jobs = jobs_of(bench, size)
    instance.execute(bench.batch(*jobs))
    assert [np.unique(bench.outputs(job)["OUT"]).tolist() for job in jobs] == [[1], [2], [3], [4]]


def test_a_local_array_of_a_batch_whose_last_request_fails(bench):
    """What was written for a request that then fails is in nobody's answer, although nothing refers to the array."""
    instance = opened(
        bench,
        f"""
        def execute(self, requests):
            scratch = np.empty((1, {LARGE}), np.int32)
            answers = []
            for request in requests:
                scratch[:] = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
                if request is requests[-1]:
                    answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("no")))
                else:
                    answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", scratch)]))
            return answers
        """,
    )
    jobs = jobs_of(bench, LARGE, 2)
    instance.execute(bench.batch(*jobs))
    assert np.unique(bench.outputs(jobs[0])["OUT"]).tolist() == [1]


def test_one_dict_of_parameters_for_a_whole_batch(bench):
    """Parameters are the response's own too."""
    instance = opened(
        bench,
        """
        def initialize(self, args):
            self.parameters = {}
        def execute(self, requests):
            answers = []
            for request in requests:
                self.parameters["who"] = int(request.inputs()[0].as_numpy()[0, 0])
                answers.append(pb_utils.InferenceResponse([], parameters=self.parameters))
            return answers
        """,
    )
    jobs = jobs_of(bench, SMALL)
    instance.execute(bench.batch(*jobs))
    assert [job.response.parameters for job in jobs] == [{"who": number} for number in (1, 2, 3, 4)]


async def test_answers_kept_for_later_are_not_the_next_requests(bench):
    """A decoupled model makes a response over its scratch array, and sends it when it has used the array again."""
    write(
        bench,
        f"""
        def initialize(self, args):
            self.scratch = np.empty((1, {LARGE}), np.int32)
            self.kept = []
        def execute(self, requests):
            for request in requests:
                self.scratch[:] = request.inputs()[0].as_numpy()
                response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.scratch)])
                self.kept.append((request.get_response_sender(), response))
            while len(self.kept) >= 2:
                for sender, response in self.kept:
                    sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                self.kept.clear()
        """,
    )
    (bench.path / "config.pbtxt").write_text(
        """
        backend: "python"
        max_batch_size: 8
        model_transaction_policy { decoupled: true }
        input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
        output [{ name: "OUT" data_type: TYPE_INT32 dims: [-1] }]
        instance_group [{ kind: KIND_CPU }]
        """
    )
    got = {}
    async with despina.open_engine(bench.path.parent, backend_config=in_process.SETTING) as engine:

        async def ask(number):
            stream = engine.stream("m", {"IN": np.full((1, LARGE), number, np.int32)})
            got[number] = [np.unique(result["OUT"]).tolist() async for result in stream]

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, 1)
                nursery.start_soon(ask, 2)
    assert got == {1: [[1]], 2: [[2]]}


# Written to after the answer


@pytest.mark.parametrize(
    "kept",
    [
        "self.kept = answer.output_tensors()[0].as_numpy()",
        "self.tensor = answer.output_tensors()[0]",
        "self.kept = memoryview(answer.output_tensors()[0].as_numpy())",
        "self.kept = answer.output_tensors()[0].as_numpy()[:, 1:]",
    ],
)
@pytest.mark.parametrize(
    "made",
    [
        f"pb_utils.Tensor('OUT', np.ones((1, {LARGE}), np.int32))",
        f"pb_utils.Tensor('OUT', np.ones({LARGE}, np.int32).reshape(1, -1))",
        "pb_utils.Tensor('OUT', requests[0].inputs()[0].as_numpy())",
        "(requests[0].inputs()[0].as_numpy(), requests[0].inputs()[0])[1]",
        "requests[0].inputs()[0]",
    ],
)
def test_answers_do_not_change_when_the_model_writes_later(bench, made, kept):
    """Whatever the model keeps of an answer: writing to it afterwards changes its own copy only."""
    instance = opened(
        bench,
        f"""
        def execute(self, requests):
            self.requests = requests
            answer = pb_utils.InferenceResponse([{made}])
            {kept}
            return [answer]
        def write(self):
            for tensor in [*self.requests[0].inputs(), *([self.tensor] if hasattr(self, "tensor") else [])]:
                tensor.as_numpy()[:] = 99
            if hasattr(self, "kept"):
                np.asarray(self.kept)[...] = 99
        """,
    )
    job = in_own_body(bench.job({"IN": np.ones((1, LARGE), np.int32)}))
    instance.execute(bench.batch(job))
    instance._model.write()
    (output,) = bench.outputs(job).values()
    assert np.unique(output).tolist() == [1]


def test_a_tensor_that_is_answered_again_and_again(bench):
    """A model keeps one large Tensor and changes it for each request: answers given before stay as they were."""
    instance = opened(
        bench,
        f"""
        def initialize(self, args):
            self.tensor = pb_utils.Tensor("OUT", np.zeros((1, {LARGE}), np.int32))
        def execute(self, requests):
            self.tensor.as_numpy()[:] = requests[0].inputs()[0].as_numpy()
            return [pb_utils.InferenceResponse([self.tensor])]
        """,
    )
    jobs = jobs_of(bench, LARGE, 3)
    for job in jobs:
        instance.execute(bench.batch(job))
    assert [np.unique(bench.outputs(job)["OUT"]).tolist() for job in jobs] == [[1], [2], [3]]


def test_callers_arrays_are_not_written_once_their_bytes_are_known(bench):
    """An array of a caller in this process stays as it is also when somebody has asked for its wire form before."""
    mine = np.ones((1, LARGE), np.int32)
    job = bench.job({"IN": np.ones((1, 1), np.int32)})
    job.request.inputs["IN"] = Tensor.of("IN", mine)
    job.request.inputs["IN"].memory()
    instance = opened(bench, "def execute(self, requests):\n    requests[0].inputs()[0].as_numpy()[:] = 99")
    instance.execute(bench.batch(job))
    assert np.unique(mine).tolist() == [1]


# Without a copy


@pytest.mark.parametrize("count", [1, 3])
def test_large_inputs_pass_through_without_a_copy(bench, count):
    """Identity costs no copy, in a batch neither: an input's array is its own request's."""
    instance = opened(
        bench,
        """
        def execute(self, requests):
            arrays = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
            sys.modules["__main__"].addresses.extend(array.ctypes.data for array in arrays)
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]) for array in arrays]
        """,
    )
    jobs = [in_own_body(job) for job in jobs_of(bench, LARGE, count)]
    seen = addresses()
    instance.execute(bench.batch(*jobs))
    assert [bench.outputs(job)["OUT"].ctypes.data for job in jobs] == seen
    assert [np.frombuffer(job.request.inputs["IN"].memory(), "u1").ctypes.data for job in jobs] == seen


def test_a_large_constant_is_copied_for_its_first_answer_only(bench):
    """A Tensor that a model keeps and returns for every request is taken over once."""
    instance = opened(
        bench,
        f"""
        def initialize(self, args):
            self.table = pb_utils.Tensor("OUT", np.ones((1, {LARGE}), np.int32))
        def execute(self, requests):
            return [pb_utils.InferenceResponse([self.table]) for request in requests]
        """,
    )
    jobs = jobs_of(bench, SMALL, 3)
    instance.execute(bench.batch(*jobs))
    assert len({bench.outputs(job)["OUT"].ctypes.data for job in jobs}) == 1


def test_threads_of_a_model_make_tensors_of_their_own_memory(bench):
    """Whose request such a thread works on is unknown, so that large arrays are taken at once there."""
    instance = opened(
        bench,
        f"""
        def initialize(self, args):
            import threading
            self.threading = threading
        def execute(self, requests):
            made = []
            scratch = np.ones((1, {LARGE}), np.int32)
            def make():
                made.append(pb_utils.Tensor("OUT", scratch))
                scratch[:] = 99
            thread = self.threading.Thread(target=make)
            thread.start()
            thread.join()
            return [pb_utils.InferenceResponse(made)]
        """,
    )
    (job,) = jobs_of(bench, SMALL, 1)
    instance.execute(bench.batch(job))
    assert np.unique(bench.outputs(job)["OUT"]).tolist() == [1]


# Subclasses of ndarray


def test_masked_arrays_are_refused(bench):
    """The fill value of a masked element is nobody's answer; the text says what to do."""
    instance = opened(
        bench,
        """
        def execute(self, requests):
            masked = np.ma.masked_array([[1, 2]], [[0, 1]], np.int32)
            try:
                pb_utils.Tensor("OUT", masked)
            except TypeError as error:
                self.text = str(error)
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", masked.filled(7))])]
        """,
    )
    (job,) = jobs_of(bench, SMALL, 1)
    instance.execute(bench.batch(job))
    assert instance._model.text.endswith("pass array.filled(value)")
    assert bench.outputs(job)["OUT"].tolist() == [[1, 7]]


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("kind", ["INT32", "STRING"])
def test_other_subclasses_are_taken_for_what_they_hold(bench, tmp_path, kind):
    """A matrix never gets flat and a record array never loses its class: neither may make the answer wrong."""
    np.array([[3, 4]], np.int32).tofile(tmp_path / "map")
    instance = opened(
        bench,
        f"""
        def execute(self, requests):
            made = {{
                "matrix": np.asmatrix(np.array([[1, 2], [3, 4]], np.int32)),
                "records": np.array([[1, 2]], np.int32).view(np.recarray),
                "file": np.memmap({str(tmp_path / "map")!r}, np.int32, "r", shape=(1, 2)),
                "texts": np.asmatrix(np.array([["a", "b"], ["c", "d"]])),
                "characters": np.char.array([["a", b"b"]]),
            }}
            return [
                pb_utils.InferenceResponse([pb_utils.Tensor("OUT", made[r.request_id()])]) for r in requests
            ]
        """,
        kind=kind,
    )
    expected = {
        "INT32": {"matrix": [[1, 2], [3, 4]], "records": [[1, 2]], "file": [[3, 4]]},
        "STRING": {"texts": [[b"a", b"b"], [b"c", b"d"]], "characters": [[b"a", b"b"]]},
    }[kind]
    jobs = [bench.job({"IN": np.zeros((1, 1), np.int32)}, id=name) for name in expected]
    instance.execute(bench.batch(*jobs))
    assert [bench.outputs(job)["OUT"].tolist() for job in jobs] == list(expected.values())
