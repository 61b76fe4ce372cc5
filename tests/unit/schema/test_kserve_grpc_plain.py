"""Requests read straight from their bytes against the same ones decoded as messages."""

from __future__ import annotations

import random

import numpy as np
import pytest
from despina.schema.fault import Fault
from despina.schema.inference import LATEST
from despina.schema.kserve_grpc import read_request
from despina.schema.kserve_grpc_plain import read_plain_request, takes_long
from despina.schema.version import parse_version
from despina.schema.wire import codec
from despina.schema.wire.generated.inference import ModelInferRequest
from tritonclient.grpc import service_pb2


def said(request):
    """All that a request says, in order."""
    tensors = [(t.name, t.datatype, tuple(t.shape), bytes(t.memory())) for t in request.inputs.values()]
    numbers = (request.correlation_id, request.sequence_start, request.sequence_end, request.priority)
    names = (request.model_name, request.model_version, request.id, list(request.outputs))
    return tensors, numbers, names, request.timeout_us, request.parameters


@pytest.mark.parametrize("seed", range(8))
def test_damaged_requests_read_as_messages_do(seed):
    """Goal: whichever byte is another, the request says what its message says, or is left to that."""
    dice = np.random.default_rng(seed)
    tensors = [("A", dice.bytes(64)), ("B", dice.bytes(200))]
    message = service_pb2.ModelInferRequest(
        model_name="m",
        model_version="3",
        id="an id",
        inputs=[{"name": name, "datatype": "UINT8", "shape": [len(data)]} for name, data in tensors],
        outputs=[{"name": "C"}, {"name": "D"}],
        raw_input_contents=[data for _, data in tensors],
    )
    message.parameters["mine"].double_param = 0.5
    message.parameters["other"].int64_param = -1
    whole = message.SerializeToString()
    assert read_plain_request(whole) is not None
    plain = 0
    for _ in range(600):
        data = bytearray(whole)
        data[int(dice.integers(len(data) if dice.integers(2) else 90))] ^= int(dice.integers(1, 256))
        short = read_plain_request(bytes(data))
        try:
            decoded = codec.decode(ModelInferRequest, bytes(data))
            long = read_request(decoded, parse_version(decoded.model_version))
        except (codec.Malformed, Fault):
            assert short is None
            continue
        if short is not None:
            plain += 1
            assert said(short) == said(long)
    assert plain > 100


def test_requests_of_one_form_are_alike():
    """Goal: who has examined one of them knows the next, whatever else they say; but not one with other sizes."""

    def read(id, *contents):
        message = service_pb2.ModelInferRequest(
            model_name="m",
            id=id,
            inputs=[{"name": name, "datatype": "BYTES", "shape": [1]} for name in "AB"],
            raw_input_contents=contents,
        )
        return read_plain_request(message.SerializeToString()).template

    first = read("", b"1234", b"12")
    assert read("another", b"5678", b"34") is first
    assert read("", b"123", b"123") is not first


def test_requests_of_one_size_are_told_apart():
    """Goal: a form that is known is taken for nothing else of its size. Method: descriptions of equal length in random
    order, each byte of one damaged; what is read is what the message says."""
    dice = random.Random(3)
    wholes = []
    for outputs in ("AB", "BA", "CD", "DC", "AC", "CA"):
        message = service_pb2.ModelInferRequest(
            model_name="of one size",
            inputs=[{"name": name, "datatype": "UINT8", "shape": [8]} for name in outputs],
            outputs=[{"name": name} for name in outputs],
            raw_input_contents=[bytes(8), bytes(8)],
        )
        wholes.append(message.SerializeToString())
    for _ in range(1500):
        data = bytearray(dice.choice(wholes))
        if dice.random() < 0.5:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        short = read_plain_request(bytes(data))
        try:
            long = read_request(codec.decode(ModelInferRequest, bytes(data)), LATEST)
        except (codec.Malformed, Fault):
            assert short is None
            continue
        if short is not None:
            assert said(short) == said(long)


@pytest.mark.parametrize("form", [bytes, memoryview])
def test_large_requests_of_one_form(form):
    """Goal: what is large is read as its message says, too, with any byte around the contents another. Method: two
    inputs of 40,000 and 100 bytes in either order of sizes."""
    dice = random.Random(5)
    wholes = []
    for sizes in ((40_000, 100), (100, 40_000)):
        message = service_pb2.ModelInferRequest(
            model_name="of large ones",
            id="an id",
            inputs=[{"name": name, "datatype": "UINT8", "shape": [1000]} for name in "AB"],
            raw_input_contents=[dice.randbytes(size) for size in sizes],
        )
        wholes.append(message.SerializeToString())
    for _ in range(300):
        data = bytearray(dice.choice(wholes))
        if dice.random() < 0.7:
            around = [at for start in (0, data.index(b"UINT8"), 140, 40_040) for at in range(start, start + 60)]
            data[dice.choice(around)] ^= 1 << dice.randrange(8)
        data = bytes(data)
        short = read_plain_request(form(data))
        try:
            long = read_request(codec.decode(ModelInferRequest, data), LATEST)
        except (codec.Malformed, Fault):
            assert short is None
            continue
        if short is not None:
            assert said(short) == said(long)
    first = read_plain_request(form(wholes[0]))
    assert first.template is read_plain_request(form(wholes[0])).template


def test_many_texts_are_counted_each_time():
    """Goal: a known form does not keep large BYTES from being read in a thread."""
    message = service_pb2.ModelInferRequest(
        model_name="of texts",
        inputs=[{"name": "A", "datatype": "BYTES", "shape": [20_000]}],
        raw_input_contents=[b"\1\0\0\0x" * 20_000],
    )
    data = memoryview(message.SerializeToString())
    for _ in range(2):
        assert takes_long(data)
        assert read_plain_request(data).inputs["A"].elements == 20_000


LISTS = {
    "bool_contents": (["BOOL"], 0, 2),
    "int_contents": (["INT8", "INT16", "INT32"], -(2**31), 2**31),
    "int64_contents": (["INT64"], -(2**63), 2**63),
    "uint_contents": (["UINT8", "UINT16", "UINT32"], 0, 2**32),
    "uint64_contents": (["UINT64"], 0, 2**64),
    "fp32_contents": (["FP32"], -9, 9),
    "fp64_contents": (["FP64"], -9, 9),
    "bytes_contents": (["BYTES"], 0, 300),
}


@pytest.mark.parametrize("field", LISTS)
@pytest.mark.parametrize("seed", range(3))
def test_elements_in_lists(field, seed):
    """Goal: typed contents read as their message's do, few and many, of every datatype and of wrong ones; damaged ones
    are left to the message."""
    dice = random.Random(f"{field}{seed}")
    datatypes, low, high = LISTS[field]
    plain = 0
    for _ in range(40):
        message = service_pb2.ModelInferRequest(model_name="m", outputs=[{"name": "O"}])
        for name in "AB"[: dice.choice((1, 2))]:
            numbers = [dice.randrange(low, high) >> dice.choice((0, 0, 8, 60)) for _ in range(dice.choice((1, 5, 90)))]
            elements = [bytes(number) for number in numbers] if field == "bytes_contents" else numbers
            datatype = dice.choice([*datatypes * 5, "FP16", "INT32"])
            message.inputs.add(name=name, datatype=datatype, shape=[len(elements)], contents={field: elements})
        data = bytearray(message.SerializeToString())
        if dice.random() < 0.5:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        short = read_plain_request(bytes(data))
        try:
            long = read_request(codec.decode(ModelInferRequest, bytes(data)), LATEST)
        except (codec.Malformed, Fault):
            assert short is None
            continue
        if short is not None:
            plain += 1
            assert said(short) == said(long)
    assert plain >= 8


def test_many_elements():
    """Goal: lists that are unpacked in pieces, in a thread, read as their message's; and only those take long."""
    numbers = [index * 2654435761 % 2**64 for index in range(30_000)]
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="A", datatype="UINT64", shape=[30_000], contents={"uint64_contents": numbers})
    message.inputs.add(name="B", datatype="BYTES", shape=[9000], contents={"bytes_contents": [b"text"] * 9000})
    data = message.SerializeToString()
    assert takes_long(data)
    short = read_plain_request(memoryview(data))
    assert said(short) == said(read_request(codec.decode(ModelInferRequest, data), LATEST))
    cut = data.index(b"\x2a") + 40_000
    assert read_plain_request(data[:cut] + b"\xff" * 12 + data[cut + 12 :]) is None
    raw = service_pb2.ModelInferRequest(inputs=[{"name": "A"}], raw_input_contents=[bytes(1 << 20)])
    assert not takes_long(raw.SerializeToString())


PARAMETERS = (
    ("sequence_id", "int64_param", 7),
    ("sequence_id", "int64_param", -1),
    ("sequence_id", "string_param", "a text"),
    ("sequence_id", "bool_param", True),
    ("sequence_start", "bool_param", False),
    ("sequence_start", "bool_param", True),
    ("sequence_end", "bool_param", True),
    ("sequence_end", "int64_param", 1),
    ("priority", "uint64_param", 3),
    ("priority", "int64_param", -3),
    ("timeout", "int64_param", 1000),
    ("mine", "string_param", "x" * 70),
    ("mine", "double_param", 0.5),
    ("mine", "uint64_param", 5),
    ("triton_x", "bool_param", True),
    ("triton_enable_empty_final_response", "bool_param", True),
)


@pytest.mark.parametrize("seed", range(20))
def test_requests_with_parameters(seed):
    """Goal: sequences' requests, too, read as the long way does, the first time and when they are known; neither their
    tensors nor their ids get mixed up. Method: two callers who take turns, with random parameters."""
    dice = np.random.default_rng(seed)
    for _ in range(30):
        callers = []
        for _ in range(2):
            message = service_pb2.ModelInferRequest(
                model_name="a model of sequences",
                inputs=[{"name": "I" * 80, "datatype": "UINT8", "shape": [8]}],
                outputs=[{"name": "O"}],
            )
            for index in dice.integers(len(PARAMETERS), size=dice.integers(1, 4)):
                key, field, value = PARAMETERS[index]
                message.parameters[key].ClearField("parameter_choice")
                setattr(message.parameters[key], field, value)
            callers.append(message)
        for _ in range(3):
            for message in callers:
                message.raw_input_contents[:] = [dice.bytes(8)]
                data = message.SerializeToString(deterministic=True)
                short = read_plain_request(data)
                try:
                    long = read_request(codec.decode(ModelInferRequest, data), LATEST)
                except Fault:
                    assert short is None
                    continue
                if "triton_enable_empty_final_response" in message.parameters:
                    assert short is None
                    continue
                assert short is not None
                assert said(short) == said(long)
                short.parameters = {"changed": True}  # a request's own, never the next one's
