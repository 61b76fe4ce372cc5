"""What stands for an answer: keys, and entries as bytes."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from despina.engine.model.cache.entry import decode, encode, seal, unseal
from despina.engine.model.cache.key import Keys
from despina.schema.inference import InferenceRequest, InferenceResponse
from despina.schema.tensor import Tensor
from hypothesis import given

KEYS = Keys("m", 1, "made")


def request(inputs=(("IN", "INT32", (2,), bytes(8)),), **options):
    return InferenceRequest(
        "m", {name: Tensor(name, datatype, shape, memory) for name, datatype, shape, memory in inputs}, **options
    )


IN = ("IN", "INT32", (2,), bytes(8))
DIFFERENT = {
    "plain": request(),
    "bytes": request([("IN", "INT32", (2,), bytes(7) + b"\1")]),
    "shape": request([("IN", "INT32", (1, 2), bytes(8))]),
    "datatype": request([("IN", "UINT32", (2,), bytes(8))]),
    "name": request([("INN", "INT32", (2,), bytes(8))]),
    "another input": request([IN, ("MORE", "INT32", (0,), b"")]),
    "output": request(outputs=("OUT",)),
    "outputs": request(outputs=("OUT", "MORE")),
    "parameter": request(parameters={"p": 1}),
    "parameter's type": request(parameters={"p": True}),
    "parameter's text": request(parameters={"p": "1"}),
    "parameters": request(parameters={"p": 1, "q": 1}),
    "sequence": request(correlation_id=1),
    "sequence's text": request(correlation_id="1"),
    "sequence's start": request(correlation_id=1, sequence_start=True),
}


def test_all_that_an_answer_depends_on():
    """Goal: no two requests that a model could answer differently have the same key, nor do models or makes."""
    found = {KEYS.of(request) for request in DIFFERENT.values()}
    found |= {keys.of(request()) for keys in (Keys("n", 1, "made"), Keys("m", 2, "made"), Keys("m", 1, "other"))}
    assert len(found) == len(DIFFERENT) + 3


def test_what_no_answer_depends_on():
    """Goal: who asks, how urgently, in which order and form, is no part of the key."""
    same = [
        request(id="x"),
        request(priority=3, timeout_us=5),
        request(parameters={}),
        request(parameters={"despina_cache": "bypass"}),
        InferenceRequest("m", {"IN": Tensor.of("IN", np.zeros(2, np.int32))}),
    ]
    assert {KEYS.of(request) for request in same} == {KEYS.of(request())}
    both = [("A", "INT8", (1,), b"a"), ("B", "INT8", (1,), b"b")]
    assert KEYS.of(request(both)) == KEYS.of(request(both[::-1]))
    assert KEYS.of(request(outputs=("A", "B"))) == KEYS.of(request(outputs=("B", "A", "B")))


NAMES = st.text(st.characters(codec="utf-8"), max_size=5)
INPUTS = st.lists(st.tuples(NAMES, NAMES, st.lists(st.integers(0, 3), max_size=2), st.binary(max_size=5)), max_size=3)


@given(one=INPUTS, two=INPUTS)
def test_parts_do_not_run_into_each_other(one, two):
    """Goal: keys are equal exactly where the inputs are, however names and bytes are cut."""
    first, second = ({name: rest for name, *rest in inputs} for inputs in (one, two))
    assert (KEYS.of(request(one)) == KEYS.of(request(two))) == (first == second)


RESPONSES = st.builds(
    lambda outputs, parameters: InferenceResponse(
        "m", "1", [Tensor(name, datatype, shape, memory) for name, datatype, shape, memory in outputs], "id", parameters
    ),
    INPUTS,
    st.none()
    | st.dictionaries(NAMES, st.text(st.characters(codec="utf-8")) | st.booleans() | st.integers(-(2**63), 2**63)),
)


@given(RESPONSES)
def test_entries_come_back_as_they_were(response):
    """Goal: names, datatypes, shapes, bytes and parameters survive."""
    answer = decode(unseal("key", seal("key", encode(response))))
    assert [(one.name, one.datatype, tuple(one.shape), bytes(one.memory())) for one in answer.outputs] == [
        (one.name, one.datatype, tuple(one.shape), bytes(one.memory())) for one in response.outputs
    ]
    assert answer.parameters == response.parameters


@given(RESPONSES, st.data())
def test_damaged_entries_are_refused(response, data):
    """Goal: a byte changed, lost or added anywhere, or another key, and there is no entry."""
    sealed = seal("key", encode(response))
    at = data.draw(st.integers(0, len(sealed) - 1))
    for damaged in (sealed[:at], sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], sealed + b"\0"):
        with pytest.raises(ValueError, match="damaged"):
            unseal("key", damaged)
    with pytest.raises(ValueError, match="damaged"):
        unseal("kez", sealed)


@given(st.binary(max_size=60))
def test_what_was_never_an_entry_is_refused(noise):
    """Goal: decoding raises, and does nothing worse."""
    with pytest.raises((ValueError, TypeError)):
        decode(noise)


def test_what_has_no_form_is_not_kept():
    """Goal: an answer that would not come back as it was is refused at once."""
    for parameters in ({"p": float("nan")}, {"p": 2**70}):
        with pytest.raises(Exception, match=r"JSON|Integer"):
            encode(InferenceResponse("m", "1", [], parameters=parameters))
