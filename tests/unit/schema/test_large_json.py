"""Long arrays of numbers in heads: read in pieces, to the same request or the same complaint as all at once."""

import random
import re

import numpy as np
import pytest
from despina.schema import kserve_http
from despina.schema.fault import Fault
from despina.schema.infer_head import ReplyFormat
from despina.schema.inference import InferenceResponse
from despina.schema.kserve_http_reply import LongText, encode_infer
from despina.schema.large_json import LONG_BYTES_MIN, lift
from despina.schema.tensor import Tensor

COUNT = LONG_BYTES_MIN
NUMBERS = b",".join(b"%d" % (index % 100) for index in range(COUNT))

ROWS = b",".join(b"[%b]" % b",".join([b"%d" % (row % 100)] * 16) for row in range(COUNT // 16))


def head(data, datatype=b"FP32", count=COUNT, more=b"", opening=b'{"id":"7",'):
    """One input whose elements `data` are."""
    return b'%b"inputs":[{"name":"I","datatype":"%b","shape":[%d],"data":[%b]%b}]}' % (
        opening,
        datatype,
        count,
        data,
        more,
    )


def outcome(text, monkeypatch, *, in_pieces):
    """What is decoded, or the complaint. Fails if long arrays were not lifted where they should be."""
    with monkeypatch.context() as patch:
        patch.setattr(kserve_http, "LARGE_BYTES_MIN", 0 if in_pieces else 1 << 60)
        try:
            request, reply = kserve_http.decode_infer(text, None, "m", -1)
        except Fault as fault:
            return type(fault), fault.message
    return (
        request.id,
        request.parameters,
        request.outputs,
        repr(reply),
        [(one.name, one.datatype, tuple(one.shape), bytes(one.memory())) for one in request.inputs.values()],
    )


@pytest.mark.parametrize(
    ("text", "lifted"),
    [
        (head(NUMBERS), True),
        *((head(NUMBERS, datatype), True) for datatype in (b"INT8", b"UINT64", b"FP64", b"BOOL", b"FP16", b"WRONG")),
        (head(NUMBERS.replace(b"9", b"-9.25e3")), True),
        (head(NUMBERS.replace(b",", b" ,\n ")), True),
        (head(NUMBERS, b"UINT8", opening=b'{ "parameters" : {"a": 1, "binary_data_output": true} , '), True),
        (head(NUMBERS, count=COUNT + 1), True),
        (head(NUMBERS, count=COUNT - 1), True),
        (head(b"-1," + NUMBERS, b"UINT8", COUNT + 1), True),
        (head(b"1e400," + NUMBERS, count=COUNT + 1), True),
        (head(NUMBERS + b",true", count=COUNT + 1), True),
        (head(NUMBERS + b","), True),
        (head(b"," + NUMBERS), True),
        (head(NUMBERS + b",,1", count=COUNT + 1), True),
        (head(NUMBERS + b",01", count=COUNT + 1), True),
        (head(b" " * COUNT * 2, count=0), True),
        (head(b" " * COUNT * 2), True),
        (head(b"9" * COUNT * 2), True),
        (head(NUMBERS, more=b',"data":[1]'), True),
        (head(NUMBERS, more=b',"parameters":{"data":[%b]}' % NUMBERS), True),
        (head(NUMBERS, more=b',"parameters":{"a":"b:c"}'), True),
        (head(NUMBERS)[:-1], True),
        (head(NUMBERS) + b"]", True),
        (head(b"[%b]" % NUMBERS), True),
        (head(b" [ [%b] ] " % NUMBERS), True),
        (head(b"[%b],[%b]" % (NUMBERS, NUMBERS), count=2 * COUNT), True),
        (head(ROWS, count=COUNT), True),
        (head(ROWS, b"INT8", count=COUNT), True),
        (head(ROWS.replace(b"],[", b"], ["), count=COUNT), True),
        (head(ROWS.replace(b"],[", b"]\n,\n["), count=COUNT), True),
        (head(b"[%b]" % ROWS, count=COUNT), True),
        (head(b"[%b],[%b],7" % (ROWS, ROWS), count=2 * COUNT + 1), True),
        (head(b"[%b],[[%b]]" % (ROWS, ROWS), count=2 * COUNT), True),
        (head(ROWS.replace(b"],[", b"],[[3],", 1), count=COUNT), True),
        (head(ROWS.replace(b"],[", b"]],[", 1), count=COUNT), False),
        (head(ROWS.replace(b"],[", b"][", 1), count=COUNT), True),
        (head(ROWS.replace(b"],[", b"],,[", 1), count=COUNT), True),
        *((head(b"[" * depth + NUMBERS + b"]" * depth), True) for depth in (98, 99, 100)),
        *((head(b"[1,%b]" % (b"[" * depth + NUMBERS + b"]" * depth), count=COUNT + 1), True) for depth in (97, 98, 99)),
        (head(b"[" * 2000 + NUMBERS + b"]" * 2000), True),
        (head(b'"a",' + NUMBERS, b"BYTES"), False),
        (b'{"inputs":[{"name":"I","datatype":"INT8","shape":[1],"data":[1]}],"a":"%b"}' % (b"x" * COUNT), False),
        (head(NUMBERS)[: COUNT + 99], False),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, bytes) else None,
)
def test_in_pieces_as_all_at_once(text, lifted, monkeypatch):
    """Requests, and faults of every kind, with their texts."""
    assert (lift(memoryview(text)) is not None) is lifted
    assert outcome(text, monkeypatch, in_pieces=True) == outcome(text, monkeypatch, in_pieces=False)


def test_many_short_arrays_cost_no_more_than_their_bytes():
    """What is looked at of a head with no long array is looked at once: its text comes out of it, in order."""
    text = b'{"inputs":[%b]}' % b",".join([b'{"data" : [1,2]}'] * 30_000)
    assert lift(memoryview(text)) is None
    long = b'{"a":[%b],"inputs":[{"data":[%b]}]}' % (
        b",".join([b'{"data":[%b]}' % (b"1," * 40_000 + b"1")] * 9),
        NUMBERS,
    )
    lifted = lift(memoryview(long))
    assert lifted is not None
    assert re.sub(rb'"[0-9a-f]{32}"', b"[%b]" % NUMBERS, lifted.text) == long


@pytest.mark.parametrize("seed", range(4))
def test_wherever_pieces_end(seed, monkeypatch):
    """Elements of every length, so that pieces end anywhere in them."""
    some = random.Random(seed)
    elements = [repr(some.choice((some.random(), some.randrange(10**9), -0.0, 1e-7))).encode() for _ in range(60_000)]
    blanks = [b"", b" ", b"\n\t"]
    data = b"".join(b"%b,%b" % (one, some.choice(blanks)) for one in elements)[:-3].rstrip(b", \n\t")
    text = head(data, b"FP64", data.count(b",") + 1)
    assert outcome(text, monkeypatch, in_pieces=True) == outcome(text, monkeypatch, in_pieces=False)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint64", "bool"])
def test_long_answers_are_written_aside(dtype):
    """The same text in pieces; who has no time for it is told so."""
    some = np.random.default_rng(1)
    values = some.standard_normal(300_000) * 10.0 ** some.integers(-30, 30, 300_000)
    with np.errstate(invalid="ignore"):
        values = values.astype(dtype)
    tensor = Tensor.of("O", values)
    response = InferenceResponse("m", "1", [tensor])
    with pytest.raises(LongText):
        encode_infer(response, ReplyFormat(), at_once=True)
    text, buffers, has_bytes = encode_infer(response, ReplyFormat())
    assert not buffers
    assert not has_bytes
    pieces = [
        encode_infer(InferenceResponse("m", "1", [Tensor.of("O", part)]), ReplyFormat(), at_once=True)[0]
        for part in np.array_split(values, 60)
    ]
    assert text.partition(b'"data":')[2] == b"[%b]}]}" % b",".join(
        [piece.partition(b'"data":[')[2].removesuffix(b"]}]}") for piece in pieces]
    )
