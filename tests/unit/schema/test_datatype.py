"""The table of datatypes: complete, consistent with the protocol's enum, and found by dtype in either byte order."""

from __future__ import annotations

import numpy as np
import pytest
from despina.schema.datatype import BY_CONFIG_NAME, BY_NAME, BY_NUMBER, TABLE, name_of_dtype
from despina.schema.wire.generated.inference import DataType
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype


def test_the_table_is_the_enum():
    """Each row has the name and number that model configurations use; only INVALID has no row."""
    numbers = {member.name: member.value for member in DataType if member is not DataType.TYPE_INVALID}
    assert {row.config_name: row.number for row in TABLE} == numbers
    assert len(BY_NAME) == len(BY_CONFIG_NAME) == len(BY_NUMBER) == len(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_rows_agree_with_the_client(row):
    """The client library has the same dtype for each name, and sizes are the dtype's own."""
    if row.name == "BF16":  # numpy has none: the client hands out float32, we keep the bits
        assert row.dtype == np.uint16
    else:
        assert row.dtype == np.dtype(triton_to_np_dtype(row.name))
        assert np_to_triton_dtype(row.dtype) == row.name
    assert row.byte_size == (0 if row.name == "BYTES" else row.dtype.itemsize)
    assert BY_NUMBER[row.number] is BY_NAME[row.name] is BY_CONFIG_NAME[row.config_name] is row


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_names_of_dtypes(row):
    """A dtype has one name whatever its byte order; uint16 is UINT16, never BF16."""
    expected = "UINT16" if row.name == "BF16" else row.name
    assert name_of_dtype(row.dtype) == expected
    assert name_of_dtype(row.dtype.newbyteorder(">")) == expected


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("U7", "BYTES"), ("S3", "BYTES"), ("O", "BYTES"), ("c8", None), ("M8[s]", None), ([("a", "i4")], None)],
)
def test_other_dtypes(dtype, expected):
    """Strings of any width are BYTES; what the protocol cannot say has no name."""
    assert name_of_dtype(np.dtype(dtype)) == expected
