"""One batch of a library's: requests in, answers out, by their forms. Without an engine."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from despina.backends.native.instance import NativeInstance
from despina.backends.native.shapes import Shapes
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.native.loading import extension
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest
from despina.schema.model_config import parse_config
from despina.schema.tensor import Tensor

from tests.native.conftest import TENSORS

BOOK = SimpleNamespace(version_text="3", defers=False)


@pytest.fixture
def executes(backend_directory):
    """Executes requests as one batch of `identity`, and gives their jobs. Always the same instance."""
    native = extension()
    library = backend_directory / "identity" / "libtriton_identity.so"
    config = parse_config(b'backend: "identity"' + TENSORS.format("TYPE_FP32").encode(), source="test")
    model, _ = native.model_open(str(library), "identity", str(library.parent), "{}", "m", 3, "/", "{}", False, None)
    native.model_settle(model, "{}", False, ["OUTPUT0"], [])
    address, _ = native.instance_open(model, "m_0", 1, 0, "{}")
    instance = NativeInstance(native, address, "m_0", Shapes(config), decoupled=False, on_close=lambda: None)

    def execute(*requests):
        jobs = [Job(request, None) for request in requests]
        for job in jobs:
            job.ledger = BOOK
        instance.execute(Batch(jobs, len(jobs), "eager"))
        return jobs

    yield execute
    instance.close()
    native.model_close(model)


def asking(data, shape=None, datatype="INT8", **more):
    tensor = Tensor("INPUT0", datatype, (len(data),) if shape is None else shape, data)
    return InferenceRequest("m", {"INPUT0": tensor}, **more)


def said(job):
    """The outputs, as name, datatype, shape and bytes."""
    assert job.fault is None
    return [(one.name, one.datatype, tuple(one.shape), bytes(one.memory())) for one in job.response.outputs]


def test_answers_of_one_batch_have_what_is_theirs(executes):
    """Goal: whatever shapes, datatypes and wishes meet in a batch, each request has its own answer, in each batch."""
    text = b"\1\0\0\0a"
    for _ in range(2):
        jobs = executes(
            asking(b"abc", id="one"),
            asking(b"abcd"),
            asking(b"wxyz", (2, 2), id="three"),
            asking(b"wxyz", (1,), "FP32"),
            asking(text, (1,), "BYTES"),
            asking(b"none", outputs=["OTHER"]),
            asking(b"", (0, 5)),
        )
        assert [job.response.id for job in jobs] == ["one", "", "three", "", "", "", ""]
        assert {(job.response.model_name, job.response.model_version) for job in jobs} == {("m", "3")}
        assert [said(job) for job in jobs] == [
            [("OUTPUT0", "INT8", (3,), b"abc")],
            [("OUTPUT0", "INT8", (4,), b"abcd")],
            [("OUTPUT0", "INT8", (2, 2), b"wxyz")],
            [("OUTPUT0", "FP32", (1,), b"wxyz")],
            [("OUTPUT0", "BYTES", (1,), text)],
            [],
            [("OUTPUT0", "INT8", (0, 5), b"")],
        ]


def test_answers_that_are_alike_say_so(executes):
    """Goal: doors write once what answers of one form share: their template is the same, also in later batches."""
    one, other, longer = executes(asking(b"one"), asking(b"two", id="x"), asking(b"three"))
    (later,) = executes(asking(b"six"))
    assert one.response.template is other.response.template is later.response.template is not None
    assert longer.response.template is not one.response.template
    assert list(other.response.wires) == [b"two"]


def test_more_forms_than_are_kept(executes):
    """Goal: clients choose shapes; forms are forgotten, and answers stay right."""
    for round_ in range(2):
        for size in range(0, 1200, 3):
            jobs = executes(*(asking(bytes([round_]) * (size + more), (1, size + more)) for more in range(3)))
            for more, job in enumerate(jobs):
                assert said(job) == [("OUTPUT0", "INT8", (1, size + more), bytes([round_]) * (size + more))]


@pytest.mark.parametrize("size", [0, 1, 10_000, 100_000])
def test_bytes_are_let_go_of(executes, size):
    """Goal: inputs are held, not copied, until the library is done with them, whoever's they are; nobody has them
    after the batch."""
    data = bytearray(b"x" * size)
    held = bytes(data)
    before = sys.getrefcount(held)
    for given in (held, memoryview(held)[: size // 2], data, np.frombuffer(held, np.int8).data):
        (job,) = executes(asking(given))
        assert said(job) == [("OUTPUT0", "INT8", (len(given),), bytes(given))]
    del given, job
    assert sys.getrefcount(held) == before
    data.clear()  # refused while anybody has a view of it


def test_arrays_are_given_as_their_bytes(executes):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    (job,) = executes(InferenceRequest("m", {"INPUT0": Tensor.of("INPUT0", array.T)}))
    assert said(job) == [("OUTPUT0", "FP32", (3, 2), array.T.tobytes())]


def test_what_cannot_be_given_is_told_alone(executes):
    """Goal: a number beyond 64 bits, an input that is no buffer: the others of the batch are answered."""
    fine, large, broken, last = executes(
        asking(b"fine"), asking(b"x", parameters={"large": 2**70}), asking(7, (1,)), asking(b"last")
    )
    assert (said(fine)[0][3], said(last)[0][3]) == (b"fine", b"last")
    for job in (large, broken):
        assert isinstance(job.fault, InvalidArgument)
        assert str(job.fault).startswith("the request cannot be given to the backend: ")
        assert job.response is None


def test_the_batch_is_let_go_of(executes):
    """Goal: an idle instance keeps neither requests nor answers."""
    request = asking(b"abc")
    before = sys.getrefcount(request)
    executes(request)
    assert sys.getrefcount(request) == before
