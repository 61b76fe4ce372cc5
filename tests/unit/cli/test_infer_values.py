"""Tensors as people write them: every form, and what is wrong with the rest."""

from __future__ import annotations

import numpy as np
import pytest
from despina.frontends.cli.infer_values import BadInput, plain, split_input, tensor_of, text_of


@pytest.mark.parametrize(
    ("datatype", "expected", "value", "shape", "array"),
    [
        ("FP32", [-1, 4], "1,2,3,4", None, [[1, 2, 3, 4]]),
        ("INT64", [-1, 2], "1,2,3,4", None, [[1, 2], [3, 4]]),
        ("INT32", [-1, -1], "1, 2, 3", None, [[1, 2, 3]]),
        ("INT32", [-1, -1], "1,2,3", [3, 1], [[1], [2], [3]]),
        ("UINT8", [2], "[1, 255]", None, [1, 255]),
        ("BOOL", [-1], "true,0", None, [True, False]),
        ("FP64", [-1, 2], "[[1,2],[3,4.5]]", None, [[1, 2], [3, 4.5]]),
        ("BYTES", [-1], "a,bé", None, [b"a", "bé".encode()]),
        ("BYTES", [-1, 1], '[["x"],["y"]]', None, [["x"], ["y"]]),
        ("FP32", [], "3.5", None, 3.5),
        ("FP32", [0], "[]", None, []),
    ],
)
def test_values(datatype, expected, value, shape, array):
    """Goal: lists and JSON take the model's type and shape."""
    tensor = tensor_of("X", datatype, expected, value, shape)
    assert tensor.datatype == datatype
    assert tensor.numpy().tolist() == np.array(array, dtype=tensor.numpy().dtype).tolist()


def test_brain_floats_are_read_and_shown():
    """Goal: BF16 goes out as the upper half of a float and is shown as a number."""
    tensor = tensor_of("X", "BF16", [-1], "1.5,-2", None)
    assert bytes(tensor.memory()) == b"\xc0\x3f\x00\xc0"
    assert plain(tensor) == [1.5, -2.0]


def test_files(tmp_path):
    """Goal: raw bytes, bytes for one BYTES element, and numpy files."""
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(range(8)))
    np.save(tmp_path / "a.npy", np.arange(4, dtype=np.float64).reshape(2, 2))
    assert tensor_of("X", "BYTES", [1], f"@{raw}", None).numpy().tolist() == [bytes(range(8))]
    assert tensor_of("X", "UINT32", [-1], f"@{raw}", None).numpy().tolist() == [0x03020100, 0x07060504]
    assert tensor_of("X", "FP32", [-1, 2], f"@{tmp_path}/a.npy", None).numpy().tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("datatype", "expected", "value", "words"),
    [
        ("FP32", [4], "1,2", "expected shape [4], got 2 elements"),
        ("INT8", [-1], "300", "expected -128 to 127"),
        ("INT8", [-1], "1.5", "expected an integer, got '1.5'"),
        ("INT8", [-1], "[1.5]", "expected integers"),
        ("FP32", [-1], "a", "expected a number, got 'a'"),
        ("BOOL", [-1], "maybe", "expected true or false"),
        ("FP32", [-1], "[1,", "bad JSON"),
        ("FP32", [-1, -1], "[[1],[2,3]]", "input 'X'"),
        ("FP32", [-1], '["a"]', "expected numbers"),
        ("FP32", [-1], "@/no/such/file", "No such file"),
        ("FP8", [-1], "1", "FP8"),
    ],
)
def test_bad_values_name_the_input(datatype, expected, value, words):
    """Goal: every mistake names the input and what was expected."""
    with pytest.raises(BadInput, match="input 'X'") as caught:
        tensor_of("X", datatype, expected, value, None)
    assert words in str(caught.value)


def test_split():
    """Goal: names with colons and values with '=' survive."""
    assert split_input("A=1=2") == ("A", None, "1=2")
    assert split_input("A:2x3=1") == ("A", [2, 3], "1")
    assert split_input("ns:A=1") == ("ns:A", None, "1")
    for bad in ("A", "=1"):
        with pytest.raises(BadInput):
            split_input(bad)


def test_answers_are_readable():
    """Goal: a heading with type and shape; text as text, other bytes escaped."""
    assert text_of(tensor_of("X", "FP32", [-1], "1,2", None)) == "X: FP32 2\n  [1., 2.]"
    tensor = tensor_of("L", "BYTES", [-1], "cat,dog", None)
    tensor.numpy()[1] = b"\xff"
    assert text_of(tensor) == "L: BYTES 2\n  cat\n  b'\\xff'"
