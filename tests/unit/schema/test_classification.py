"""Ranking an output's values."""

import numpy as np
import pytest
from despina.schema.classification import ELEMENTS_MAX, classify
from despina.schema.fault import Internal, InvalidArgument
from despina.schema.tensor import Tensor
from hypothesis import given
from hypothesis import strategies as st


def ranked(array, count, max_batch_size=0, labels=(), datatype=None):
    return classify(Tensor.of("O", np.asarray(array), datatype), count, max_batch_size, labels).numpy().tolist()


def test_values_indices_and_labels():
    """Floats have six decimals, integers none; an empty or missing label leaves the third part out."""
    assert ranked(np.array([0.1, 0.95, -2e-9], np.float32), 3, labels=["cat", "dog"]) == [
        b"0.950000:1:dog",
        b"0.100000:0:cat",
        b"-0.000000:2",
    ]
    assert ranked(np.array([3, 255], np.uint8), 1, labels=["a", ""]) == [b"255:1"]
    assert ranked(np.array([1e30, np.inf, -np.inf], np.float32), 3) == [
        b"inf:1",
        b"1000000015047466219876688855040.000000:0",
        b"-inf:2",
    ]


def test_each_item_of_a_batch_is_ranked_for_itself():
    """The first dimension stays; the count is capped at the elements of an item."""
    tensor = classify(Tensor.of("O", np.array([[[1, 2], [3, 4]], [[8, 7], [6, 5]]])), 9, 4, ())
    assert tensor.shape == (2, 4)
    assert tensor.datatype == "BYTES"
    assert tensor.numpy().tolist() == [[b"4:3", b"3:2", b"2:1", b"1:0"], [b"8:0", b"7:1", b"6:2", b"5:3"]]


def test_without_batching_all_dimensions_are_elements():
    """A model that does not batch has one item."""
    assert ranked([[1, 9], [5, 0]], 2) == [b"9:1", b"5:2"]
    assert ranked(np.array(7), 2, max_batch_size=3) == [b"7:0"]


def test_ties_keep_their_order_and_nan_is_lowest():
    """Ranking is deterministic."""
    assert ranked([5, 5, 7, 5], 3) == [b"7:2", b"5:0", b"5:1"]
    assert ranked([np.nan, 1.0, np.nan], 2) == [b"1.000000:1", b"nan:0"]


def test_nothing_to_rank():
    """No elements, or no items, give an empty answer."""
    assert classify(Tensor.of("O", np.zeros((1, 0), np.float32)), 2, 8, ()).shape == (1, 0)
    assert classify(Tensor.of("O", np.zeros((0, 3), np.float32)), 2, 8, ()).shape == (0, 2)
    assert classify(Tensor.of("O", np.zeros((0,), np.int8)), 2, 0, ()).memory() == b""


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES", "FP16", "BF16"])
def test_unsupported_datatypes(datatype):
    """Refused in the protocol's words."""
    with pytest.raises(InvalidArgument) as caught:
        classify(Tensor("O", datatype, (1,), b"\0\0"), 1, 0, ())
    assert caught.value.message == f"class result not available for output due to unsupported type '{datatype}'"


def test_too_large_and_lying():
    """Size is checked on the shape, before any element is looked at; bytes that do not fit are the model's fault."""
    with pytest.raises(InvalidArgument, match=r"^classification output tensor too large$"):
        classify(Tensor("O", "FP32", (ELEMENTS_MAX + 1,), b""), 1, 0, ())
    with pytest.raises(Internal, match="does not match size of output for 'O'"):
        classify(Tensor("O", "FP32", (3,), b"\0" * 8), 1, 0, ())


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=30), st.integers(1, 40))
def test_same_as_sorting(values, count):
    """The partial sort agrees with a full stable one."""
    order = sorted(range(len(values)), key=lambda index: -values[index])[:count]
    assert ranked(np.array(values), count) == [f"{values[index]}:{index}".encode() for index in order]
