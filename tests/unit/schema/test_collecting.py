"""Faults of one configuration, told at once."""

from __future__ import annotations

import pytest
from despina.schema.config.collecting import TOLD_MAX, collected, refuse_all
from despina.schema.fault import Internal, InvalidArgument
from despina.schema.model_config import normalise, parse_config, validate, validate_io


def refused(function):
    with pytest.raises(InvalidArgument) as caught:
        function()
    return caught.value.message


def test_batching_faults_are_told_at_once():
    """Goal: each in the protocol's words, in the order of the checks."""
    text = """name: "m" backend: "b" max_batch_size: 4 dynamic_batching {
      preferred_batch_size: 9 priority_levels: 2 default_priority_level: 3 preserve_ordering: true
      priority_queue_policy { key: 5 value { default_timeout_microseconds: 1 timeout_action: DELAY } } }
    model_metrics { metric_control {} }"""
    assert refused(lambda: validate(normalise(parse_config(text.encode())))).split("; ") == [
        "dynamic batching preferred size must be <= max batch size for m",
        "default priority level must be in range [1, 2] for m",
        "priority queue policy must have priority level in range [1, 2] for m",
        "Only one priority level is allowed when 'preserve_ordering' is true for m",
        "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m",
        "metric control must specify 'metric_identifier'",
        "metric control must specify 'histogram_options'",
    ]


def test_tensor_faults_are_told_at_once():
    """Goal: of every input, output, batch input and batch output the first."""
    text = """name: "m" backend: "b" max_batch_size: 4
    input [{ name: "A" dims: 0 }, { name: "B" data_type: TYPE_INT32 dims: 0 }]
    output { name: "C" data_type: TYPE_INT32 }
    batch_input { kind: BATCH_ITEM_SHAPE data_type: TYPE_INT8 source_input: "A" }
    batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "X" source_input: "A" }"""
    assert refused(lambda: validate_io(parse_config(text.encode()))).split("; ") == [
        "model input 'A' must specify 'data_type' for m",
        "model input 'B' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m",
        "model output 'C' must specify 'dims' for m",
        "batch input data type must be TYPE_INT32 or TYPE_FP32 for m",
        "unknown target output name 'X' for m",
    ]


def test_a_text_has_a_bound_and_no_doubles():
    """Goal: a fault for each of a million tensors is no text of a million lines; the same one is said once."""
    assert refused(lambda: refuse_all([str(number) for number in range(10**5)])).endswith(
        f"; {TOLD_MAX - 1}; and {10**5 - TOLD_MAX} more"
    )
    assert refused(lambda: refuse_all(["a", "a", "b"], "m: ")) == "m: a; b"
    refuse_all([])


def test_other_failures_pass():
    """Goal: only what is wrong with the configuration is collected."""
    found = []
    with pytest.raises(Internal), collected(found):
        raise Internal("not this")
    assert found == []
