"""The same models, written in Python and in C++, asked through the Python API and through the C API: equal bytes.

Two repositories have models of the same names, so that every text is the same, too.
"""

from __future__ import annotations

import subprocess

import attrs
import despina
import numpy as np
import pytest
from despina.native.dispatching import CODES as CODE_NAMES
from despina.schema.datatype import TABLE
from despina.schema.fault import Fault
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor, encode_bytes

from tests.capi.compiling import SANITIZERS
from tests.native.conftest import TENSORS

COUNTDOWN = """
max_batch_size: 0 model_transaction_policy { decoupled: true }
input [ { name: "COUNT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "INDEX" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
FAILS = 'parameters { key: "fails" value { string_value: "%s" } } max_batch_size: 4' + TENSORS.format("TYPE_INT8")
START = "import triton_python_backend_utils as pb_utils\n\n\nclass TritonPythonModel:\n"
IDENTITY = (
    START
    + """
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "INPUT0") for request in requests]
        outputs = [
            pb_utils.Tensor.from_dlpack("OUTPUT0", tensor)
            if tensor.triton_dtype() == 14
            else pb_utils.Tensor("OUTPUT0", tensor.as_numpy())
            for tensor in tensors
        ]
        return [pb_utils.InferenceResponse([output]) for output in outputs]
"""
)
LATE = (
    START
    + """
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy() for request in requests]
        given = {"late": "yes"}
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", it)], parameters=given) for it in tensors]
"""
)
REFUSING = (
    START
    + """
    def execute(self, requests):
        error = pb_utils.TritonError("this request is not answered", pb_utils.TritonError.UNAVAILABLE)
        return [pb_utils.InferenceResponse(error=error) for _ in requests]
"""
)
COUNTING = (
    START
    + """
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = pb_utils.get_input_tensor_by_name(request, "COUNT").as_numpy()
            for index in reversed(range(int(count[0]))):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("INDEX", 0 * count + index)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
)
MODELS = {  # name: configuration, backend in C++, model.py
    **{
        f"{row.name.lower()}_{size}": (
            f"max_batch_size: {size} " + TENSORS.format(row.config_name) + ("dynamic_batching {}" if size else ""),
            "identity",
            IDENTITY,
        )
        for row in TABLE
        for size in (0, 8)
    },
    "late": ("max_batch_size: 0" + TENSORS.format("TYPE_INT8"), "late", LATE),
    "refusing": (FAILS % "request", "failing", REFUSING),
    "countdown": (COUNTDOWN, "countdown", COUNTING),
}


@attrs.frozen
class Case:
    """One request: inputs are name, datatype, shape, bytes."""

    model: str
    inputs: tuple = ()
    version: int = -1
    id: str = ""
    output: str = ""

    def text(self):
        """As programs/same.c reads it."""
        lines = [f"{self.model} {self.version} {self.id or '-'} {self.output or '-'} {len(self.inputs)}"]
        for name, datatype, shape, data in self.inputs:
            lines.append(f"{name} {datatype} {','.join(map(str, shape)) or '-'} {data.hex() or '-'}")
        return "".join(line + "\n" for line in lines)

    def request(self):
        tensors = {name: Tensor(name, datatype, shape, data) for name, datatype, shape, data in self.inputs}
        outputs = (self.output,) if self.output else ()
        return InferenceRequest(self.model, tensors, model_version=self.version, id=self.id, outputs=outputs)


def data_of(row, shape):
    """Bytes of every kind of element: extremes, subnormals, values that are no numbers, text that is no UTF-8."""
    count = int(np.prod(shape))
    if row.name == "BYTES":
        words = [b"", b"one", b"\xff\xfe\0", "zwölf".encode(), b"x" * 300]
        return bytes(encode_bytes(np.array([words[index % 5] for index in range(count)], object)))
    if row.name == "BOOL":
        return bytes(index % 2 for index in range(count))
    return np.random.default_rng(row.number).bytes(count * row.byte_size)


def answered():
    """Requests that are answered: all datatypes, batched or not, one row and several, small, large and empty."""
    for row in TABLE:
        many = 10_000 if row.byte_size else 1_000
        for size, shapes in ((0, [(1,), (7,), (2 * many,)]), (8, [(1, 1), (8, 3), (2, many), (3, 0)])):
            for shape in shapes:
                data = data_of(row, shape)
                yield Case(f"{row.name.lower()}_{size}", (("INPUT0", row.name, shape, data),))
    one = (("INPUT0", "FP32", (1, 1), b"\0\0\x80\x3f"),)
    yield Case("fp32_8", one, id="an-id", output="OUTPUT0", version=1)
    yield Case("fp32_8", (("INPUT0", "FP32", (0, 2), b""),))
    yield Case("late", (("INPUT0", "INT8", (3,), b"abc"),), id="7")
    for count in (0, 1, 5):
        yield Case("countdown", (("COUNT", "INT32", (1,), count.to_bytes(4, "little")),), id="stream")


def refused():
    """Requests that are errors, of the engine and of the model."""
    good = ("INPUT0", "FP32", (1, 2), bytes(8))
    yield Case("nobody", (good,))
    yield Case("fp32_8", (good,), version=3)
    yield Case("fp32_8")
    yield Case("fp32_8", (good, ("OTHER", "FP32", (1, 2), bytes(8))))
    yield Case("fp32_8", (("OTHER", "FP32", (1, 2), bytes(8)),))
    yield Case("fp32_8", (good,), output="NOTHING", id="with-an-id")
    for shape, size in (((1, 2, 1), 8), ((2,), 8), ((), 4), ((9, 1), 36), ((1, 2), 7), ((1, 2), 12)):
        yield Case("fp32_8", (("INPUT0", "FP32", shape, bytes(size)),), id="shape")
    yield Case("fp32_8", (("INPUT0", "INT32", (1, 2), bytes(8)),))
    yield Case("fp32_0", (("INPUT0", "FP32", (2, 2), bytes(16)),))
    for data in (b"\2\0\0\0a", b"\1\0\0\0ab", b"\1\0\0", b""):
        yield Case("bytes_0", (("INPUT0", "BYTES", (1,), data),))
    yield Case("refusing", (("INPUT0", "INT8", (2, 3), b"abcdef"),))
    yield Case("refusing", (("INPUT0", "INT8", (2, 3), b"abcdef"),), id="known")


ISOLATED = 'parameters { key: "native_isolation" value { string_value: "process" } }'
IN_PROCESSES = ("bool_8", "bf16_0", "bytes_0", "bytes_8", "fp32_8", "late", "refusing", "countdown")
CASES = [*answered(), *refused()]
CODES = tuple(f"{name}: " for name in CODE_NAMES)


def write_models(folder, *, in_python, isolated=()):
    """`isolated` are those in processes of their own."""
    for name, (config, backend, source) in MODELS.items():
        more = ISOLATED if name in isolated else ""
        version = folder / name / "1"
        version.mkdir(parents=True)
        chosen = 'backend: "python" ' if in_python else f'backend: "{backend}" {more} '
        (version.parent / "config.pbtxt").write_text(chosen + config)
        if in_python:
            (version / "model.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """The same models, by how they are written."""
    folder = tmp_path_factory.mktemp("same")
    return {
        "Python": write_models(folder / "python", in_python=True),
        "C++": write_models(folder / "native", in_python=False),
        "C++, isolated": write_models(folder / "isolated", in_python=False, isolated=IN_PROCESSES),
    }


def line_of(response):
    parameters = "".join(f" {name}={value}" for name, value in (response.parameters or {}).items())
    outputs = "".join(
        f" | {tensor.name} {tensor.datatype} [{','.join(map(str, tensor.shape))}] {bytes(tensor.memory()).hex()}"
        for tensor in response.outputs
    )
    return f"{response.model_name} {response.model_version} '{response.id}'{parameters}{outputs}"


async def through_python(repository, backend_directory):
    """What comes of each case, in the same lines as programs/same.c prints."""
    told = []
    async with despina.open_engine(
        repository, backend_directory=str(backend_directory), backend_config={"python": {"isolation": "none"}}
    ) as engine:
        for number, case in enumerate(CASES):
            told.append(f"#{number}")
            try:
                told += [line_of(response) async for response in engine.stream_request(case.request())]
            except Fault as fault:
                told.append(f"{fault.code_text}: {fault.message}")
    return told


def check_equal(told, expected):
    """Says where the first difference is, and not all of what is equal."""
    for number, (line, wanted) in enumerate(zip(told, expected, strict=False)):
        if line != wanted:
            pytest.fail(str((number, expected[number - 1], line[:300], wanted[:300])))
    assert len(told) == len(expected)


async def test_equal_bytes_and_texts_through_every_way(
    repositories,
    backend_directory,
    compiled,
    tmp_path,
):
    """Goal: every response and every refusal is the same, character by character, whichever language the model and the
    caller are written in."""
    cases = tmp_path / "cases"
    cases.write_text("".join(case.text() for case in CASES))
    program = compiled("same")

    def through_c(repository):
        command = [str(program), str(repository), str(backend_directory), str(cases)]
        patience = 300 if SANITIZERS else 60
        done = subprocess.run(command, env=SANITIZERS, capture_output=True, text=True, timeout=patience)
        *told, last = done.stdout.splitlines() or [""]
        assert (done.returncode, last) == (0, "done"), done.stderr
        return told

    expected = await through_python(repositories["Python"], backend_directory)
    failures = [line for line in expected if line.startswith(CODES)]
    assert len(failures) == len([*refused()]), failures
    for written, repository in repositories.items():
        if written != "Python":
            check_equal(await through_python(repository, backend_directory), expected)
        check_equal(through_c(repository), expected)
