"""Heads that are remembered without their id: what an id says never depends on what came before."""

import pytest
from despina.schema.kserve_http import decode_infer

INPUTS = b'"inputs":[{"name":"A","shape":[1],"datatype":"INT32","parameters":{"binary_data_size":4}}]'


@pytest.mark.parametrize("second", [rb'"id"', rb'"\u0069d"', rb'"i\u0064"', rb'"\u0069\u0064"'])
def test_a_second_id_counts_the_same_every_time(second):
    """Goal: however it is spelt, with or without an escape, the same bytes say the same at each reading."""
    head = b'{"id":"x",%b,%b:"y"}' % (INPUTS, second)
    ids = {decode_infer(head + b"1234", len(head), "m", -1)[0].id for _ in range(4)}
    assert len(ids) == 1


def test_an_id_alone_is_read_anew():
    """Goal: heads that differ in their leading id only keep their own."""
    for name in (b"a", b"b", b"a"):
        head = b'{"id":"%b",%b}' % (name, INPUTS)
        assert decode_infer(head + b"1234", len(head), "m", -1)[0].id == name.decode()
