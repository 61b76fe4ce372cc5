"""Inference requests over gRPC in every way that protobuf lets clients write them, read straight from their bytes and
as messages: lists whole, in parts or element by element, long varints, fields twice, unknown, in groups or of a wrong
type."""

import struct

import pytest
from despina.schema.fault import Fault
from despina.schema.kserve_grpc import read_request
from despina.schema.kserve_grpc_plain import read_plain_request
from despina.schema.version import parse_version
from despina.schema.wire import codec
from despina.schema.wire.generated.inference import ModelInferRequest
from despina.schema.wire.packed import unpack_varints
from despina.schema.wire.varint import Malformed, read_varint, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from .test_kserve_grpc_plain import said

LISTS = [["BOOL"], ["INT8", "INT16", "INT32"], ["INT64"], ["UINT8", "UINT16", "UINT32"], ["UINT64"], ["FP32"], ["FP64"]]
"""By the number of the list, from 1 on: the datatypes that may use it."""
BYTES_OF = {6: 4, 7: 8}
"""By the number of a list of floats: an element's size."""


def sized(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def lengthened(value, size):
    """A varint in at least so many bytes."""
    data = bytearray(varint(value))
    while len(data) < size:
        data[-1] |= 0x80
        data.append(0)
    return bytes(data)


numbers = st.one_of(
    st.integers(0, 127), st.integers(0, 2**21), st.integers(0, 2**64 - 1), st.integers(-(2**31), -1), st.booleans()
)
varints = st.builds(lengthened, numbers.map(int), st.sampled_from([1, 1, 1, 1, 3, 5, 8, 9, 10]))
oddities = st.one_of(
    st.builds(lambda number, value: varint(number << 3) + varint(value), st.integers(1, 40), numbers.map(int)),
    st.builds(lambda number, data: sized(number, data), st.integers(1, 40), st.binary(max_size=6)),
    st.builds(
        lambda number, data: varint(number << 3 | 5) + data, st.integers(1, 9), st.binary(min_size=4, max_size=4)
    ),
    st.builds(
        lambda number, data: varint(number << 3 | 1) + data, st.integers(1, 9), st.binary(min_size=8, max_size=8)
    ),
    st.builds(
        lambda number, data: varint(number << 3 | 3) + sized(1, data) + varint(number << 3 | 4),
        st.integers(1, 40),
        st.binary(max_size=4),
    ),
)
"""Fields of any number and type, groups among them."""


@st.composite
def contents(draw, odd):
    """A list's number, and an InferTensorContents with it."""
    number = draw(st.integers(1, 8))
    count = draw(st.integers(1, 40))
    if number == 8:
        texts = [sized(8, draw(st.binary(max_size=200))) for _ in range(min(count, 5))]
        return number, b"".join(texts)
    floats = BYTES_OF.get(number)
    one = varints if not floats else st.floats(width=8 * floats).map(struct.Struct("<f" if floats == 4 else "<d").pack)
    elements = [draw(one) for _ in range(count)]
    way = draw(st.sampled_from(["whole", "whole", "parts", "unpacked", "mixed"])) if odd else "whole"
    if way == "whole":
        return number, sized(number, b"".join(elements))
    wire_type = {None: 0, 4: 5, 8: 1}[floats]
    cut = {"parts": 0, "unpacked": count, "mixed": draw(st.integers(0, count))}[way]
    alone = b"".join(varint(number << 3 | wire_type) + element for element in elements[:cut])
    half = (count - cut) // 2 + cut
    return number, alone + sized(number, b"".join(elements[cut:half])) + sized(number, b"".join(elements[half:]))


@st.composite
def an_input(draw, name, odd):
    number, elements = draw(contents(odd))
    datatypes = ["BYTES"] if number == 8 else LISTS[number - 1]
    if odd and draw(st.integers(0, 7)) == 0:
        datatypes = ["FP32", "INT32", "BYTES", "FP16", "no type"]
    shape = draw(st.lists(st.integers(-1, 300), max_size=3))
    fields = [
        sized(1, name),
        sized(2, draw(st.sampled_from(datatypes)).encode()),
        sized(3, b"".join(varint(size & 2**64 - 1) for size in shape)),
        sized(draw(st.sampled_from([5, 5, 5, 5, 4, 9])) if odd else 5, elements),
    ]
    return b"".join(disturbed(draw, fields, odd))


def disturbed(draw, fields, odd):
    """Some of them twice, or with others between them."""
    if not odd:
        return fields
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        another = draw(st.one_of(oddities, st.sampled_from(fields)))
        fields.insert(draw(st.integers(0, len(fields))), another)
    return fields


@st.composite
def requests(draw, odd):
    names = draw(
        st.lists(st.sampled_from([b"A", b"B", b"in", b"n" * 90, "ü".encode()]), min_size=1, max_size=3, unique=True)
    )
    fields = [
        sized(1, b"m"),
        sized(2, draw(st.sampled_from([b"", b"3"]))),
        sized(3, draw(st.sampled_from([b"", b"an id"]))),
    ]
    if draw(st.booleans()):
        value = draw(st.sampled_from([sized(3, b"text"), b"\x08\x01", b"\x10" + varint(-2), b"\x10\x05"]))
        key = draw(st.sampled_from([b"mine", b"timeout"] if odd else [b"mine"]))
        fields.append(sized(4, sized(1, key) + sized(2, value)))
    fields += [sized(5, draw(an_input(name, odd))) for name in names]
    fields += [
        sized(6, sized(1, name)) for name in draw(st.lists(st.sampled_from([b"O", b"P"]), max_size=2, unique=not odd))
    ]
    return b"".join(disturbed(draw, fields, odd))


@settings(max_examples=200, deadline=None)
@given(requests(odd=False))
def test_what_clients_write_is_read_straight_from_its_bytes(data):
    """Goal: lists that are whole are never left to the message, and read as it reads them, once and again."""
    message = codec.decode(ModelInferRequest, data)
    expected = said(read_request(message, parse_version(message.model_version)))
    for _ in range(2):
        request = read_plain_request(data)
        assert request is not None
        assert said(request) == expected


@settings(max_examples=400, deadline=None)
@given(requests(odd=True))
def test_what_protobuf_allows_is_read_alike(data):
    """Goal: whatever else a message may hold, what is read straight is what the message says, and what it is refused
    for is left to it, and so has its text."""
    for _ in range(2):
        request = read_plain_request(data)
        try:
            message = codec.decode(ModelInferRequest, data)
            expected = read_request(message, parse_version(message.model_version))
        except (codec.Malformed, Fault):
            assert request is None
            continue
        assert request is None or said(request) == said(expected)


def one_by_one(data):
    """The naive way. Raises as the other does."""
    found, at = [], 0
    try:
        while at < len(data):
            number, at = read_varint(data, at)
            found.append(number)
    except IndexError:
        raise Malformed("cut off") from None
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.lists(varints, max_size=200).map(b"".join), st.sampled_from([b"", b"\x80", b"\xff" * 10, b"\xff" * 10 + b"\1"])
)
def test_packed_numbers(data, ending):
    """Goal: lists of every length read as one number after the other; those that end amid one or have one that is too
    long are refused."""
    data += ending
    if ending:
        with pytest.raises(Malformed):
            one_by_one(data)
        with pytest.raises(Malformed):
            unpack_varints(data)
        return
    expected = one_by_one(data)
    assert unpack_varints(data).tolist() == expected
    assert unpack_varints(memoryview(data)).tolist() == expected
    assert [number & 2**32 - 1 for number in unpack_varints(data, 32).tolist()] == [n & 2**32 - 1 for n in expected]


def test_packed_numbers_of_any_bytes():
    """Goal: the two agree on each byte at each place of a number, and of the one before it."""
    for size in range(1, 12):
        for last in range(256):
            for filling in (0x80, 0xFF, 0xAA):
                data = b"\x05" + bytes([filling]) * (size - 1) + bytes([last])
                try:
                    expected = one_by_one(data)
                except Malformed:
                    with pytest.raises(Malformed):
                        unpack_varints(data)
                else:
                    assert unpack_varints(data).tolist() == expected
