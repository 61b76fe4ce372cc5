"""The JSON form of configurations, against bodies recorded from the reference server and against proto3's own rules."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
from despina.schema.config_json_reader import SIZE_MAX
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
        ('{"name": 5}', "name: expected a string, found the number 5"),
        ('{"name": true}', "name: expected a string, found true"),
        ('{"name": "\\ud800"}', "half of a surrogate pair"),
        ('{"max_batch_size": 1.5}', "expected an integer from -2147483648 to 2147483647, found 1.5"),
        ('{"max_batch_size": 2147483648}', "expected an integer"),
        ('{"max_batch_size": "0x10"}', "expected an integer"),
        ('{"max_batch_size": 1e999}', "expected an integer"),
        ('{"max_batch_size": 1e9999999}', "expected an integer"),
        ('{"max_batch_size": true}', "max_batch_size: expected a number, found true"),
        ('{"max_batch_size": NaN}', "character 19: expected a value, found 'NaN}'"),
        ('{"max_batch_size": ' + "9" * 100_000 + "}", "expected an integer"),
        ('{"input": "x"}', "input[0]: expected an object, found a string"),
        ('{"max_batch_size": [8]}', "max_batch_size: expected a number, found a list"),
        ('{"input": [{"dims": ["x"]}]}', "input[0].dims[0]: expected an integer"),
        ('{"input": [{"data_type": "FP32"}]}', "input[0].data_type: expected one of TYPE_INVALID, "),
        ('{"input": [{"data_type": {}}]}', "input[0].data_type: expected a number, found an object"),
        ('{"input": [{"optional": "on"}]}', "input[0].optional: expected true or false, found a string"),
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
        ("[" * 100_000, "is not JSON: character 100000: expected a value, found the end"),
        ('{"name":' * 100_000, "is not JSON: character 800000: expected a value, found the end"),
        (" " * (SIZE_MAX + 1), "the limit is"),
    ],
)
def test_refusals_name_the_member(text, expected):
    """Every malformed override is an InvalidArgument that says which member is wrong and how."""
    with pytest.raises(InvalidArgument) as caught:
        config_from_json(text)
    assert expected in str(caught.value)


NAMES = st.sampled_from(
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
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["1", "x", "TYPE_FP32", "NaN", "-1"]),
    # Python takes an empty list, and an empty text, for an empty message; C++ does not.
    lambda inner: (
        st.lists(inner.filter(lambda item: not isinstance(item, list)), min_size=1, max_size=3)
        | st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=4))
@settings(max_examples=200, deadline=None)
def test_agrees_with_protobuf(value):
    """What protobuf's JSON reader for Python accepts, which is stricter than the one for C++, we accept and read the
    same; nothing else escapes than our fault."""
    text = json.dumps(value)
    try:
        theirs = json_format.Parse(text, model_config_pb2.ModelConfig())
    except json_format.ParseError:
        with contextlib.suppress(InvalidArgument):
            config_from_json(text)
        return
    assert model_config_pb2.ModelConfig.FromString(bytes(config_from_json(text))) == theirs


@given(st.text(alphabet="{}[]\"':,\\u0d8ntrue 1.-e", max_size=40))
def test_any_text_is_read_or_refused(text):
    """Nothing but our fault escapes, whatever the text."""
    with contextlib.suppress(InvalidArgument):
        config_from_json(text)


DIMS = '{"input": {"dims": %s}}'
BATCHING = '{"dynamic_batching": {%s}}'
ORDER = '{"dynamic_batching": {"preserve_ordering": %s}}'
TEXT = '{"name": %s}'
SIZE = '{"max_batch_size": %s}'
KIND = '{"instance_group": {"kind": %s}}'
SLOTS = '{"sequence_batching": {"direct": {"minimum_slot_utilization": %s}}}'
SAME = (
    # What the reference server took, and what it made of it, written as strict JSON.
    (DIMS, "1", "[1]"), (DIMS, '"1"', "[1]"), (DIMS, '["+1", "01", 2., 3e0]', "[1, 1, 2, 3]"),
    (DIMS, "[1, [2, [[3]]], null]", "[1, 2, 3]"), (DIMS, "[[]]", "[]"), (DIMS, '[1], "dims": [2]', "[1, 2]"),
    (DIMS, '1, "dims": null', "[1]"), (DIMS, "[1,]", "[1]"), (DIMS, "[" * 500 + "1" + "]" * 500, "[1]"),
    ('{"input": %s}', '[[{"name": "a"}], null]', '[{"name": "a"}]'),
    ('{"input": %s}', '{"name": "a"}, "input": {"name": "b"}', '[{"name": "a"}, {"name": "b"}]'),
    ('{"instance_group": [{"profile": %s}]}', '[["a"], "b"]', '["a", "b"]'),
    (ORDER, '"false"', "false"), (ORDER, '"TRUE"', "true"), (ORDER, '"yes"', "true"), (ORDER, '"0"', "false"),
    (ORDER, "null", "false"), (ORDER, 'true, "preserve_ordering": false', "false"),
    (ORDER, 'true, "preserve_ordering": null', "true"), (ORDER, "\x0b\x0ctrue,\n", "true"),
    (SIZE, "8., 'maxBatchSize': 0.8e1", "8"), (SIZE, '"008"', "8"), (SIZE, "8.00000000000000000001", "8"),
    (SIZE, "'8'", "8"), (SIZE, '"-0"', "0"), (SIZE, '7, "max_batch_size": 8', "8"),
    ("{%s: 8}", "max_batch_size ", '"max_batch_size"'), ("{%s: 8}", r'"max\u005fbatch_size"', '"max_batch_size"'),
    (KIND, '"2"', "2"), (KIND, '"+02"', "2"), (KIND, '"kind-cpu"', "2"), (KIND, "2.0", "2"),
    (TEXT, "'a\"b'", r'"a\"b"'), (TEXT, '"a\tb"', r'"a\tb"'), (TEXT, r'"\q\x41\v"', r'"qx41\u000b"'),
    (TEXT, '"\\\n"', r'"\n"'), (TEXT, r'"\ud83d\ude00"', '"😀"'),
    (BATCHING, '"default_queue_policy": {"max_queue_size": 1}, "default_queue_policy": {"timeout_action": 1}',
     '"default_queue_policy": {"max_queue_size": 1, "timeout_action": 1}'),
    (BATCHING, '"max_queue_delay_microseconds": 9007199254740993.0',
     '"max_queue_delay_microseconds": 9007199254740992'),
    (BATCHING, '"max_queue_delay_microseconds": 18446744073709551615,',
     '"max_queue_delay_microseconds": "18446744073709551615"'),
    (BATCHING, '"priority_queue_policy": {"+1": {}, "01": {"max_queue_size": 2}}',
     '"priority_queue_policy": {"1": {"max_queue_size": 2}}'),
    ('{"metric_tags": %s}', '{"a": null, "b": "c",}', '{"a": "", "b": "c"}'),
    ('{"metric_tags": %s}', '{"a": "1"}, "metric_tags": {"a": "2", "b": "3"}', '{"a": "2", "b": "3"}'),
    ('{"parameters": %s}', '{"a": null}', '{"a": {}}'),
    ('{"version_policy": {"specific": {"versions": %s}}}', '"1"', "[1]"),
    (SLOTS, '"+.5"', "0.5"), (SLOTS, "1e-400", "0"),
    ('{"dynamic_batching": null, %s}', '"sequence_batching": {}', '"sequence_batching": {}'),
)  # fmt: skip


@pytest.mark.parametrize(("frame", "lenient", "strict"), SAME, ids=range(len(SAME)))
def test_reads_what_the_reference_server_reads(frame, lenient, strict):
    """Goal: an override that the reference server takes means the same here."""
    assert bytes(config_from_json(frame % lenient)) == bytes(config_from_json(frame % strict))
    assert json.loads(frame % strict)


REFUSED = (
    (DIMS, "[1,,2]"), (DIMS, "[,1]"), (DIMS, "[1,,]"), (DIMS, "[1 2]"), (DIMS, "[1]]"), (DIMS, "[true]"), (DIMS, "{}"),
    (DIMS, '["1.0"]'), (DIMS, '["1e0"]'), (DIMS, '[" 1"]'), (DIMS, '[""]'), (DIMS, "[01]"), (DIMS, "[+1]"),
    (ORDER, '"on"'), (ORDER, '""'), (ORDER, "1"), (ORDER, "truex"), (ORDER, "True"), (ORDER, "\xa0true"),
    (ORDER, "true false"), (ORDER, "true,,"),
    (SIZE, "8e"), (SIZE, ".8e1"), (SIZE, "0x10"), (SIZE, "8abc"), (SIZE, '"8 "'), (SIZE, "- 8"), (SIZE, "[8]"),
    (SIZE, "8 // comment"), (SIZE, "8 /* comment */"),
    ("{%s: 8}", "1"), ("{%s: 8}", "null"), ("{%s: null}", '"nonsense"'), ("{%s: 8}", '"MaxBatchSize"'), ("{%s}", ","),
    (KIND, '"99"'), (KIND, '"kindCpu"'), (KIND, '"2.0"'), (KIND, "2.5"), (KIND, '"KIND_CPU "'), (KIND, "[2]"),
    (TEXT, "5"), (TEXT, "true"), (TEXT, "[]"), (TEXT, "{}"), (TEXT, "abc"), (TEXT, r'"\ude00"'), (TEXT, r'"\ud83dx"'),
    (TEXT, r'"\u12"'), (TEXT, '"a" "b"'), (TEXT, '"a'),
    (BATCHING, '"max_queue_delay_microseconds": 1.8446744073709552e19'), (BATCHING, '"priority_levels": -1'),
    (BATCHING, '"priority_queue_policy": {"1.0": {}}'), (BATCHING, '"priority_queue_policy": {"-1": {}}'),
    ('{"metric_tags": %s}', '{"a": "1", "a": "2"}'), ('{"metric_tags": %s}', '[{"a": "b"}]'),
    ("{%s}", '"dynamic_batching": {}, "dynamic_batching": {}'), ("{%s}", '"dynamic_batching": [{}]'),
    ("{%s}", '"dynamic_batching": {}, "sequence_batching": {}'),
    (SLOTS, '"nan"'), (SLOTS, "NaN"), (SLOTS, '"5."'), (SLOTS, '"0.5 "'), (SLOTS, "1e39"), (SLOTS, "true"),
    ("%s", "\ufeff{}"), ("%s", "{} x"), ("%s", "{}{}"), ("%s", "[{}]"), ("%s", "   "), ("%s", "{"),
)  # fmt: skip


@pytest.mark.parametrize(("frame", "text"), REFUSED)
def test_refuses_what_the_reference_server_refuses(frame, text):
    """Goal: nothing is taken here that means nothing there."""
    with pytest.raises(InvalidArgument):
        config_from_json(frame % text)
