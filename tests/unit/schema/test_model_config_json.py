"""The JSON form of configurations, against bodies recorded from the reference server and against proto3's own rules."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from despina.schema.config_json import SIZE_MAX
from despina.schema.fault import InvalidArgument
from despina.schema.model_config import (
    ModelListing,
    complete_names,
    config_from_json,
    config_to_json,
    normalise,
    normalise_instance_groups,
    parse_config,
)
from despina.schema.wire.generated.inference import (
    DataType,
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelMetrics,
    ModelMetricsMetricControl,
    ModelMetricsMetricControlHistogramOptions,
    ModelQueuePolicy,
    ModelWarmup,
    ModelWarmupInput,
)
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

CONFIGS = Path(__file__).parent / "configs"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_recorded_bodies(name):
    """What the reference server answered for a configuration is, byte for byte, what we answer."""
    config = parse_config((CONFIGS / f"{name}.pbtxt").read_bytes())
    config = normalise(complete_names(config, name, ModelListing()))
    written = config_to_json(normalise_instance_groups(config, []))
    assert written == (CONFIGS / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.json")))
def test_reads_what_it_writes(name):
    """A body that clients read may be sent back as an override."""
    body = (CONFIGS / f"{name}.json").read_bytes()
    assert config_to_json(config_from_json(body)) == body


def test_empty_config_is_an_empty_body():
    """The protocol prints nothing for a configuration without any field."""
    assert config_to_json(ModelConfig()) == b""


def test_presence_decides_what_is_written():
    """Members of a oneof appear only when set, other scalars always, messages only when set."""
    config = ModelConfig(
        name="m", model_warmup=[ModelWarmup(inputs={"a": ModelWarmupInput(zero_data=False), "b": ModelWarmupInput()})]
    )
    written = json.loads(config_to_json(config))
    assert written["model_warmup"][0]["inputs"] == {
        "a": {"data_type": "TYPE_INVALID", "dims": [], "zero_data": False},
        "b": {"data_type": "TYPE_INVALID", "dims": []},
    }
    assert written["backend"] == ""
    assert "optimization" not in written


def test_numbers_without_a_name_or_beyond_json():
    """Unnamed enum numbers stay numbers; map keys are text; buckets print like the two printers of the protocol."""
    buckets = [1.5, 1e300, 1e15, 2.5, -0.25, 1e-9, 1 / 3]
    control = ModelMetricsMetricControl(histogram_options=ModelMetricsMetricControlHistogramOptions(buckets=buckets))
    config = ModelConfig(
        input=[ModelInput(data_type=DataType(99))],
        dynamic_batching=ModelDynamicBatching(priority_queue_policy={7: ModelQueuePolicy()}),
        model_metrics=ModelMetrics(metric_control=[control]),
    )
    written = config_to_json(config)
    assert b'"data_type":99' in written
    assert b'"priority_queue_policy":{"7":{' in written
    assert b"[1.5,1e300,1000000000000000.0,2.5,-0.25,1e-9,0.3333333333333333]" in written


def test_strings_are_escaped_as_little_as_json_allows():
    """Non-ASCII text stays as it is; control characters, quotes and backslashes are escaped."""
    written = config_to_json(ModelConfig(name='é\u2028\x01"\\/\n'))
    assert written.startswith('{"name":"é\u2028\\u0001\\"\\\\/\\n",'.encode())


def test_reads_proto3_json():
    """Both spellings of names, enums in any case or by number, numbers as text, null as unset."""
    config = config_from_json(
        b'{"name": "m", "maxBatchSize": "8", "platform": null, "input": [{"name": "i", "data_type": "type_fp32",'
        b' "dims": ["-1", 3, 2.0, 1e2]}, {"dataType": 9}], "metric_tags": {"k": "v"},'
        b' "dynamic_batching": {"priority_queue_policy": {"2": {"max_queue_size": 4294967295}}},'
        b' "parameters": {"p": {"string_value": "x"}}, "response_cache": {"enable": true}}'
    )
    assert config.name == "m"
    assert config.max_batch_size == 8
    assert config.input[0].dims == [-1, 3, 2, 100]
    assert [tensor.data_type for tensor in config.input] == [DataType.TYPE_FP32, DataType.TYPE_INT64]
    assert config.metric_tags == {"k": "v"}
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.priority_queue_policy[2].max_queue_size == 2**32 - 1
    assert config.parameters["p"].string_value == "x"
    assert config.response_cache is not None
    assert config.response_cache.enable


def test_reads_every_spelling_of_floats():
    """Floats are numbers, numbers as text, or the three special names."""
    text = '{"model_metrics": {"metric_control": [{"histogram_options": {"buckets": [1, "2.5", "NaN", "-Infinity"]}}]}}'
    config = config_from_json(text)
    assert config.model_metrics is not None
    options = config.model_metrics.metric_control[0].histogram_options
    assert options is not None
    assert options.buckets[:2] == [1.0, 2.5]
    assert math.isnan(options.buckets[2])
    assert options.buckets[3] == -math.inf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        (b"\xff", "is not JSON"),
        ("[]", "ModelConfig: expected an object, found a list"),
        ("null", "ModelConfig: expected an object, found null"),
        ('{"nam": "m"}', "unknown field 'nam'; did you mean 'name'?"),
        ('{"name": "a", "name": "b"}', "member 'name' is given twice"),
        ('{"max_batch_size": 1, "maxBatchSize": 1}', "given twice, in snake_case and in camelCase"),
        ('{"name": 5}', "name: expected a string, found the number 5"),
        ('{"name": true}', "name: expected a string, found true"),
        ('{"name": "\\ud800"}', "half of a surrogate pair"),
        ('{"max_batch_size": 1.5}', "expected an integer from -2147483648 to 2147483647, found 1.5"),
        ('{"max_batch_size": 2147483648}', "expected an integer"),
        ('{"max_batch_size": "0x10"}', "expected an integer"),
        ('{"max_batch_size": 1e999}', "expected an integer"),
        ('{"max_batch_size": 1e9999999}', "expected an integer"),
        ('{"max_batch_size": true}', "max_batch_size: expected a number, found true"),
        ('{"max_batch_size": NaN}', "NaN is no JSON value"),
        ('{"max_batch_size": ' + "9" * 100_000 + "}", "expected an integer"),
        ('{"input": {}}', "input: expected a list, found an object"),
        ('{"input": [null]}', "input[0]: expected an object, found null"),
        ('{"input": [{"dims": ["x"]}]}', "input[0].dims[0]: expected an integer"),
        ('{"input": [{"data_type": "FP32"}]}', "input[0].data_type: expected one of TYPE_INVALID, "),
        ('{"input": [{"data_type": {}}]}', "input[0].data_type: expected a number, found an object"),
        ('{"input": [{"optional": "true"}]}', "input[0].optional: expected true or false, found a string"),
        ('{"input": [{"optional": false, "x": 1}]}', "input[0]: unknown field 'x'"),
        ('{"metric_tags": []}', "metric_tags: expected an object, found a list"),
        ('{"metric_tags": {"a": 1}}', "metric_tags['a']: expected a string, found the number 1"),
        ('{"dynamic_batching": {"priority_queue_policy": {"x": {}}}}', "expected an integer from 0 to"),
        ('{"dynamic_batching": {}, "sequence_batching": {}}', "excludes 'dynamic_batching'"),
        (
            '{"sequence_batching": {"direct": {"minimum_slot_utilization": 1e39}}}',
            "expected a number that fits a float",
        ),
        ('{"sequence_batching": {"direct": {"minimum_slot_utilization": "x"}}}', "expected a number that fits a float"),
        ("[" * 100_000, "nested too deep"),
        ('{"name":' * 100_000, "nested too deep"),
        (" " * (SIZE_MAX + 1), "the limit is"),
    ],
)
def test_refusals_name_the_member(text, expected):
    """Every malformed override is an InvalidArgument that says which member is wrong and how."""
    with pytest.raises(InvalidArgument) as caught:
        config_from_json(text)
    assert expected in str(caught.value)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["1", "x", "", "TYPE_FP32", "NaN", "-1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "input",
                    "dims",
                    "dataType",
                    "max_batch_size",
                    "reshape",
                    "shape",
                    "parameters",
                    "optional",
                    "all",
                    "string_value",
                    "version_policy",
                    "latest",
                    "num_versions",
                    "metric_tags",
                    "optimization",
                    "priority",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
@settings(max_examples=200, deadline=None)
def test_agrees_with_protobuf(value):
    """What we accept, protobuf's own JSON reader accepts and reads the same; nothing else escapes than our fault."""
    text = json.dumps(value)
    try:
        ours = config_from_json(text)
    except InvalidArgument:
        return
    theirs = json_format.Parse(text, model_config_pb2.ModelConfig())
    assert model_config_pb2.ModelConfig.FromString(bytes(ours)) == theirs
