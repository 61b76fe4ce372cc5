"""Tensors in their two forms, each made from the other, against numpy and the client library's own serialisers."""

from __future__ import annotations

import numpy as np
import pytest
from despina.schema.datatype import TABLE
from despina.schema.fault import InvalidArgument
from despina.schema.tensor import Tensor, decode_bytes, encode_bytes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

FIXED = [row for row in TABLE if row.byte_size]


@pytest.mark.parametrize("row", FIXED, ids=lambda row: row.name)
@given(st.data())
def test_fixed_size_round_trip(row, data):
    """Any array becomes its little-endian bytes and comes back equal, bit by bit."""
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    array = data.draw(hnp.arrays(row.dtype, shape))
    tensor = Tensor.of("x", array, row.name)
    assert tensor.shape == array.shape
    assert bytes(tensor.memory()) == array.tobytes()
    assert len(tensor.memory()) == array.size * row.byte_size
    back = Tensor("x", row.name, array.shape, bytes(tensor.memory())).numpy()
    assert back.dtype == row.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_no_copy_where_a_view_will_do():
    """The wire form of a large contiguous array, and the array over received bytes, share their memory."""
    array = np.arange(6000, dtype="<i4").reshape(2, 3000)
    assert np.shares_memory(np.frombuffer(Tensor.of("x", array).memory(), "<i4"), array)
    received = memoryview(bytearray(array.tobytes()))
    assert np.shares_memory(Tensor("x", "INT32", [2, 3000], received).numpy(), np.frombuffer(received, "<i4"))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.arange(12, dtype="<i4").reshape(2, 6)[:, ::2],
        np.arange(6, dtype="<i4").reshape(3, 2).T,
    ],
    ids=["big-endian", "strided", "transposed"],
)
def test_other_layouts(array):
    """Byte order and strides are straightened out."""
    tensor = Tensor.of("x", array)
    assert tensor.datatype == "INT32"
    assert bytes(tensor.memory()) == np.ascontiguousarray(array).astype("<i4").tobytes()


def test_forms_are_made_once():
    """A second reading answers the same object, and says whether the bytes came over the wire."""
    made = Tensor.of("x", np.zeros(3, "<f4"))
    assert made.wire is None
    assert made.memory() is made.memory()
    received = Tensor("x", "FP32", [3], bytes(12))
    assert received.wire is not None
    assert received.numpy() is received.numpy()


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_round_trip(items):
    """BYTES elements are read and written as the client library does."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    written = Tensor.of("x", array).memory()
    assert bytes(written) == encode_bytes(items)
    if items:
        assert bytes(written) == serialize_byte_tensor(array).item()
        assert list(deserialize_bytes_tensor(bytes(written))) == items
    assert decode_bytes(written, "x") == items
    assert Tensor("x", "BYTES", [len(items)], written).numpy().tolist() == items


def test_everything_may_be_a_bytes_element():
    """Text is UTF-8, buffers are their bytes, other objects their text."""
    items = ["é", b"\x00", bytearray(b"b"), memoryview(b"m"), np.bytes_(b"n"), np.str_("s"), 5]
    assert decode_bytes(encode_bytes(items), "x") == ["é".encode(), b"\x00", b"b", b"m", b"n", b"s", b"5"]


@pytest.mark.parametrize("array", [np.array([["a", "é"]]), np.array([[b"a", "é".encode()]])])
def test_numpy_strings_are_bytes(array):
    """Arrays of fixed-width strings become BYTES of the same shape."""
    tensor = Tensor.of("x", array)
    assert (tensor.datatype, tensor.shape) == ("BYTES", (1, 2))
    assert tensor.numpy().tolist() == [[b"a", "é".encode()]]


def test_a_cast_on_request():
    """A named datatype converts the elements."""
    assert Tensor.of("x", np.array([1, 2]), "FP16").numpy().dtype == np.float16


def test_dtypes_that_the_protocol_lacks():
    """What cannot be said on the wire is refused by name."""
    with pytest.raises(InvalidArgument, match="tensor 'x': numpy dtype 'complex64' has no datatype in the protocol"):
        Tensor.of("x", np.zeros(1, "c8"))


@pytest.mark.parametrize(
    ("datatype", "shape", "memory", "expected"),
    [
        ("FP32", [2], bytes(4), r"tensor 'x': shape \[2\] needs 2 elements, got 1"),
        ("FP32", [], b"", r"tensor 'x': shape \[\] needs 1 elements, got 0"),
        ("FP32", [1], bytes(5), "tensor 'x': 5 bytes are no whole number of FP32 elements"),
        ("FP32", [-1, -1], bytes(4), "no array has the shape"),
        ("FP32", [-1], bytes(4), "needs -1 elements, got 1"),
        ("FP32", [2**40, 2**40], bytes(4), "needs 1208925819614629174706176 elements, got 1"),
        ("FP32", [2**70, 0], b"", "no array has the shape"),
        ("FP32", [1] * 100, bytes(4), "no array has the shape"),
        ("FP33", [1], bytes(4), "tensor 'x': unknown datatype 'FP33'"),
        ("BYTES", [2], b"\x00\x00\x00\x00", "needs 2 elements, got 1"),
    ],
)
def test_bytes_that_do_not_fit_the_shape(datatype, shape, memory, expected):
    """Every mismatch between bytes, datatype and shape is the client's fault and says so."""
    with pytest.raises(InvalidArgument, match=expected):
        Tensor("x", datatype, shape, memory).numpy()


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (
            b"\x01\x00",
            "incomplete string length indicator for inference input 'x', expecting 4 bytes but only 2 bytes available. "
            "Please make sure the string length indicator is in one buffer.",
        ),
        (
            b"\x01\x00\x00\x00a\x05\x00\x00\x00abc",
            "incomplete string data for inference input 'x', expecting string of length 5 but only 3 bytes available",
        ),
        (
            b"\xff\xff\xff\xffa",
            "incomplete string data for inference input 'x', expecting string of length 4294967295 but only 1 bytes "
            "available",
        ),
    ],
)
def test_lying_lengths(memory, expected):
    """A length that points past the end is refused before anything is read."""
    with pytest.raises(InvalidArgument) as caught:
        decode_bytes(memory, "x")
    assert str(caught.value) == expected


def test_no_elements():
    """A dimension of size zero needs no bytes."""
    assert Tensor("x", "FP32", [0, 4], b"").numpy().shape == (0, 4)
    assert Tensor("x", "BYTES", [0], b"").numpy().shape == (0,)
    assert Tensor.of("x", np.zeros((0, 4), "<f4")).memory() == b""


def test_it_tells_what_it_is():
    """For logs: name, datatype and shape, never the data."""
    assert repr(Tensor("x", "FP32", (1, 2), bytes(8))) == "Tensor('x', FP32, [1, 2])"


def test_masked_arrays_have_no_values_to_send():
    """A caller's masked array is refused, not sent with what lies under the mask; other subclasses lose their class."""
    with pytest.raises(TypeError, match=r"tensor 'A': a masked array .* pass array.filled\(value\)"):
        Tensor.of("A", np.ma.masked_array([1, 2], [0, 1]))
    assert type(Tensor.of("A", np.arange(2).view(np.recarray)).numpy()) is np.ndarray
