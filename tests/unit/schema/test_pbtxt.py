"""The reader of config.pbtxt: each construct, each complaint with its place, and protobuf's own reader as the judge."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from despina.schema.pbtxt import COMPLAINTS_MAX, SIZE_MAX, Complaint, ConfigFault, parse_config, parse_message
from despina.schema.pbtxt_scanner import END, scan
from despina.schema.wire.generated.inference import DataType, ModelConfig, ModelRateLimiterResource
from google.protobuf import message_factory, text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

SEEDS = Path(__file__).parents[3] / "fuzz" / "seeds" / "pbtxt"


def complaints_of(text):
    with pytest.raises(ConfigFault) as caught:
        parse_config(text)
    return [(item.line, item.column, item.message) for item in caught.value.complaints]


def utilisation(text):
    config = parse_config(f"sequence_batching {{ direct {{ minimum_slot_utilization: {text} }} }}")
    assert config.sequence_batching is not None
    assert config.sequence_batching.direct is not None
    return config.sequence_batching.direct.minimum_slot_utilization


def test_a_whole_configuration():
    """The usual spellings of fields, messages, lists, maps, comments and separators in one text."""
    config = parse_config(
        """
        # an example
        name: "m"; backend: 'python',
        max_batch_size: 8  # rows
        input [ { name: "a" data_type: TYPE_FP32 dims: [ -1, 3 ] }, < name: "b" data_type: 13 dims: 1 dims: 2 > ]
        input: { name: "c", dims: [] }
        output {}
        version_policy: { specific { versions: [1, 0x10, 010] } }
        parameters { key: "k" value: { string_value: "v" } }
        parameters [ { key: "l" value { } }, { } ]
        metric_tags: { key: "a" value: "1" } metric_tags { key: "a" value: "2" }
        model_transaction_policy { decoupled: True }
        """
    )
    assert (config.name, config.backend, config.max_batch_size) == ("m", "python", 8)
    assert [(tensor.name, tensor.dims) for tensor in config.input] == [("a", [-1, 3]), ("b", [1, 2]), ("c", [])]
    assert config.input[1].data_type is DataType.TYPE_STRING
    assert len(config.output) == 1
    assert config.version_policy is not None
    assert config.version_policy.specific is not None
    assert config.version_policy.specific.versions == [1, 16, 8]
    assert {key: value.string_value for key, value in config.parameters.items()} == {"k": "v", "l": "", "": ""}
    assert config.metric_tags == {"a": "2"}
    assert config.model_transaction_policy is not None
    assert config.model_transaction_policy.decoupled is True


@pytest.mark.parametrize("text", ["", "  \n\t# only this", "\ufeff", b""])
def test_nothing_is_an_empty_configuration(text):
    """A file without fields is valid: completion may fill it."""
    assert parse_config(text) == ModelConfig()


def test_a_field_named_like_a_keyword():
    """The generated attribute has an underscore, the text has not."""
    resource = parse_message(ModelRateLimiterResource, 'name: "r" global: true', source="x")
    assert resource.global_ is True


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ('"a" \'b\'\n"c"', "abc"),
        (r'"\a\b\f\n\r\t\v\\\?\'\""', "\a\b\f\n\r\t\v\\?'\""),
        (r'"\101\1014\7\x41\xe2\x82\xac"', "AA4\aA€"),
        (r'"\xc3" "\xa9"', "é"),
        (r'"\u00e9\U0001F600\ud83d\ude00"', "é😀😀"),
        ("'\"' \"'\"", "\"'"),
        ('"é\t#{"', "é\t#{"),
        ('"a\\\nb"', None),
    ],
)
def test_strings(literal, expected):
    """Both quotes, every escape, and adjacent literals as one."""
    if expected is None:
        assert complaints_of(f"platform: {literal}")
    else:
        assert parse_config(f"platform: {literal}").platform == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1.0),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1.5e-1f", 0.15000000596046448),
        ("1F", 1.0),
        ("0.1", 0.10000000149011612),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("- inf", -math.inf),
        ("1e39", math.inf),
        ("-1e999", -math.inf),
        ("1" + "0" * 400, math.inf),
    ],
)
def test_floats(text, expected):
    """Every spelling, rounded to the 32 bits that the field has."""
    assert utilisation(text) == expected


def test_nan():
    """The one float that differs from itself."""
    assert math.isnan(utilisation("NaN"))


@pytest.mark.parametrize(
    "text", ["0x1", "01", "01.5", "1e", "1.5ff", "inff", "x", '"1"', "-", "- ", "1.2.3", "--1", "e3", ".", "f", "-f"]
)
def test_no_floats(text):
    """What looks like a number and is none."""
    assert any(
        "expected a number" in message
        for *_, message in complaints_of(f"sequence_batching {{ direct {{ minimum_slot_utilization: {text} }} }}")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", 1),
        ("True", 1),
        ("t", 1),
        ("1", 1),
        ("0x1", 1),
        ("01", 1),
        ("false", 0),
        ("False", 0),
        ("f", 0),
        ("0", 0),
        ("00", 0),
        ("0x0", 0),
        ("TRUE", None),
        ("2", None),
        ("yes", None),
        ('"true"', None),
        ("-1", None),
    ],
)
def test_bools(text, expected):
    """Words, letters and the numbers 0 and 1."""
    if expected is None:
        assert "expected true or false for 'enable'" in complaints_of(f"response_cache {{ enable: {text} }}")[0][2]
    else:
        cache = parse_config(f"response_cache {{ enable: {text} }}").response_cache
        assert cache is not None
        assert cache.enable is bool(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("-5", -5),
        ("- 5", -5),
        ("010", 8),
        ("0x1F", 31),
        ("-0x5", -5),
        ("2147483647", 2**31 - 1),
        ("-2147483648", -(2**31)),
        ("2147483648", None),
        ("-2147483649", None),
        ("9" * 100000, None),
        ("08", None),
        ("5.0", None),
        ("1e1", None),
        ("+5", None),
        ("1_0", None),
        ("5f", None),
        ("five", None),
        ("", None),
    ],
)
def test_integers(text, expected):
    """Decimal, octal and hexadecimal, in the range of the field."""
    if expected is None:
        assert "'max_batch_size'" in complaints_of(f"max_batch_size: {text}")[0][2]
    else:
        assert parse_config(f"max_batch_size: {text}").max_batch_size == expected


def test_ranges_by_type():
    """Each integer type refuses its neighbours' values."""
    assert complaints_of("version_policy { latest { num_versions: 4294967296 } }")
    assert complaints_of("version_policy { latest { num_versions: -0 } }")
    assert complaints_of("dynamic_batching { priority_levels: 18446744073709551616 }")
    assert complaints_of("input { dims: 9223372036854775808 }")
    assert parse_config("dynamic_batching { priority_levels: 18446744073709551615 }").dynamic_batching


def test_enums():
    """By name or by number; an open enum keeps numbers without a name."""
    config = parse_config("input { data_type: TYPE_BF16 } input { data_type: 99 } input { format: FORMAT_NCHW }")
    assert [int(tensor.data_type) for tensor in config.input] == [14, 99, 0]
    assert config.input[2].format == 2
    assert complaints_of("input { data_type: 4294967296 }")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nam: 5", [(1, 1, "ModelConfig has no field 'nam'; did you mean 'name'?")]),
        (
            "zzz { a { b: [ 1, < > ] } } name: 5",
            [
                (1, 1, "ModelConfig has no field 'zzz'"),
                (1, 35, "expected a string in quotes for 'name', found '5'"),
            ],
        ),
        ("max_batch_size 5", [(1, 16, "expected a colon after 'max_batch_size', found '5'")]),
        ("input 5", [(1, 7, "expected a colon or a brace after 'input', found '5'")]),
        ("input: 5", [(1, 8, "expected '{' to open ModelInput, found '5'")]),
        ("metric_tags: 5", [(1, 14, "expected '{' to open an entry of 'metric_tags', found '5'")]),
        ("max_batch_size: [5]", [(1, 17, "expected an integer for 'max_batch_size', found '['")]),
        ("max_batch_size: 5 max_batch_size: 6", [(1, 19, "'max_batch_size' is given twice in this ModelConfig")]),
        ("response_cache {}\nresponse_cache {}", [(2, 1, "'response_cache' is given twice in this ModelConfig")]),
        (
            "dynamic_batching {} sequence_batching {}",
            [(1, 21, "'sequence_batching' excludes 'dynamic_batching', which is set already: ModelConfig takes one")],
        ),
        ("input {\n  name: 'a'", [(2, 12, "expected '}' for the '{' at 1:7, found the end of the text")]),
        (
            "input [",
            [
                (1, 8, "expected '{' to open ModelInput, found the end of the text"),
                (1, 8, "expected ',' or ']' in the list that began at 1:7, found the end of the text"),
            ],
        ),
        (
            "input < name: 'a' }",
            [
                (1, 19, "expected a field of ModelInput, found '}'"),
                (1, 20, "expected '>' for the '<' at 1:7, found the end of the text"),
            ],
        ),
        (
            "} name: 5",
            [
                (1, 1, "expected a field of ModelConfig, found '}'"),
                (1, 9, "expected a string in quotes for 'name', found '5'"),
            ],
        ),
        ("input { dims: [1, 2, ] }", [(1, 22, "expected an integer for 'dims', found ']'")]),
        ("input { dims: [1; 2] }", [(1, 17, "expected ',' or ']' in the list that began at 1:15, found ';'")]),
        (
            "input { dims: [1, x, 2] } output { dims: y }",
            [
                (1, 19, "expected an integer for 'dims', found 'x'"),
                (1, 42, "expected an integer for 'dims', found 'y'"),
            ],
        ),
        ("input [ { dims: [ 1 } ]", [(1, 21, "expected ',' or ']' in the list that began at 1:17, found '}'")]),
        ("max_batch_size: 5,,", [(1, 19, "expected a field of ModelConfig, found ','")]),
        (
            "[a.b]: 5 nam: 1",
            [
                (1, 1, "expected a field of ModelConfig, found '['"),
                (1, 10, "ModelConfig has no field 'nam'; did you mean 'name'?"),
            ],
        ),
        (
            'name: "a\nmax_batch_size: x',
            [
                (1, 7, "the string has no closing \", in 'name'"),
                (2, 17, "expected an integer for 'max_batch_size', found 'x'"),
            ],
        ),
        (r'name: "\q"', [(1, 7, r"unknown escape '\q' in a string, in 'name'")]),
        (r'name: "\400"', [(1, 7, r"the escape '\400' is larger than a byte, in 'name'")]),
        (r'name: "\U00110000"', [(1, 7, r"the escape '\U00110000' is not a Unicode character, in 'name'")]),
        (r'name: "\ud83d"', [(1, 7, r"the escape '\ud83d' is half of a surrogate pair, in 'name'")]),
        (r'name: "\ud83dx\ude00"', [(1, 7, r"the escape '\ud83d' is half of a surrogate pair, in 'name'")]),
        (r'name: "\ude00"', [(1, 7, r"the escape '\ude00' is not a Unicode character, in 'name'")]),
        (r'name: "\xff"', [(1, 7, "the string for 'name' is not UTF-8")]),
        ("input { data_type: FP32 }", None),
        ("input { data_type: {} }", None),
        (b'name: "m"\nplatform: "\xff"', [(2, 12, "the text is not UTF-8")]),
    ],
)
def test_complaints(text, expected):
    """Where each mistake is, what was expected and what is there; the rest of the text is still looked at."""
    found = complaints_of(text)
    if expected is None:
        assert found[0][2].startswith("expected one of TYPE_INVALID, TYPE_BOOL, ")
    else:
        assert found == expected


def test_the_fault_tells_everything_at_once():
    """One line per complaint, each with file, line and column; a copy says the same."""
    with pytest.raises(ConfigFault) as caught:
        parse_config("nam: 1\nmax_batch_size: x", source="models/m/config.pbtxt")
    fault = caught.value
    assert str(fault).splitlines() == [
        "models/m/config.pbtxt:1:1: ModelConfig has no field 'nam'; did you mean 'name'?",
        "models/m/config.pbtxt:2:17: expected an integer for 'max_batch_size', found 'x'",
    ]
    assert fault.as_reason().startswith("Invalid argument: models/m/config.pbtxt:1:1: ")
    assert str(fault.copy()) == str(fault)
    assert (
        fault.copy().complaints
        == fault.complaints
        == [Complaint(*row) for row in complaints_of("nam: 1\nmax_batch_size: x")]
    )


@pytest.mark.parametrize(
    "text", ["x: 1 " * 10_000, "{" * 100_000, "input { x " * 10_000, "[<" * 50_000, "x { " * 100_000, "- " * 100_000]
)
def test_rubbish_is_given_up_on(text):
    """Neither depth nor the number of mistakes costs stack or patience."""
    assert 1 <= len(complaints_of(text)) <= COMPLAINTS_MAX


def test_size_limit():
    """A file beyond the limit is not read at all."""
    assert complaints_of("#" * (SIZE_MAX + 1)) == [
        (1, 1, f"the text has {SIZE_MAX + 1} characters, the limit is {SIZE_MAX}")
    ]


def test_long_tokens_are_cut_in_complaints():
    """A complaint stays readable whatever it is about."""
    assert len(complaints_of("a" * 10_000 + ": 1")[0][2]) < 120


# Judged by protobuf's own reader. Where its Python form is more or less lenient than the C++ form that the reference
# server uses, we follow C++; the generators below leave those spellings out: signs apart from their digits, `+`, `_`,
# octal and hexadecimal for enums and bools, doubled f, escapes that are none.


def theirs(text):
    """Protobuf's verdict: the message's bytes, or None."""
    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except (text_format.ParseError, ValueError):  # ValueError for an enum's number that fits none
        return None
    return message.SerializeToString(deterministic=True)


def ours(text):
    try:
        message = parse_config(text)
    except ConfigFault:
        return None
    return model_config_pb2.ModelConfig.FromString(bytes(message)).SerializeToString(deterministic=True)


@pytest.mark.parametrize("path", sorted(SEEDS.iterdir()), ids=lambda path: path.name)
def test_seeds(path):
    """The texts that fuzzing starts from are read as protobuf reads them."""
    text = path.read_text()
    assert ours(text) == theirs(text)


def message_strategy(descriptor):
    """Any message of a descriptor, as a protobuf object."""
    return st.deferred(lambda: _fields_strategy(descriptor))


def _fields_strategy(descriptor):
    chosen = st.lists(st.sampled_from(list(descriptor.fields)), max_size=4, unique_by=lambda field: field.name)
    return (
        chosen.flatmap(
            lambda fields: st.tuples(*(_field_strategy(field) for field in fields)).map(
                lambda values: _build(descriptor, fields, values)
            )
        )
        if descriptor.fields
        else st.just(_build(descriptor, [], []))
    )


def _build(descriptor, fields, values):
    message = message_factory.GetMessageClass(descriptor)()
    for field, value in zip(fields, values, strict=True):
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        for item in value if field.is_repeated else [value]:
            if is_map:
                if field.message_type.fields_by_name["value"].message_type:
                    getattr(message, field.name)[item.key].CopyFrom(item.value)
                else:
                    getattr(message, field.name)[item.key] = item.value
            elif field.message_type is not None:
                target = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
                target.SetInParent()
                target.CopyFrom(item)
            elif field.is_repeated:
                getattr(message, field.name).append(item)
            else:
                setattr(message, field.name, item)
    return message


def _field_strategy(field):
    types = type(field)
    by_type = {
        types.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        types.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        types.TYPE_UINT32: st.integers(0, 2**32 - 1),
        types.TYPE_UINT64: st.integers(0, 2**64 - 1),
        types.TYPE_BOOL: st.booleans(),
        types.TYPE_STRING: st.text(max_size=6),
        # No negative zero: the message library takes it for the default and writes nothing.
        types.TYPE_FLOAT: st.floats(width=32, allow_nan=False).map(lambda value: value + 0.0),
        types.TYPE_DOUBLE: st.floats(allow_nan=False).map(lambda value: value + 0.0),
    }
    if field.message_type is not None:
        one = message_strategy(field.message_type)
    elif field.enum_type is not None:
        one = st.sampled_from([value.number for value in field.enum_type.values])
    else:
        one = by_type[field.type]
    return st.lists(one, max_size=2) if field.is_repeated else one


CONFIG_MESSAGES = message_strategy(model_config_pb2.ModelConfig.DESCRIPTOR)
FORMS = st.fixed_dictionaries(
    {
        "as_one_line": st.booleans(),
        "use_short_repeated_primitives": st.booleans(),
        "pointy_brackets": st.booleans(),
        "use_index_order": st.booleans(),
        "as_utf8": st.booleans(),
    }
)


@given(CONFIG_MESSAGES, FORMS)
@settings(max_examples=150, deadline=None)
def test_any_message_is_read_back(message, form):
    """Whatever protobuf prints of any configuration, in each of its forms, we read as the same message."""
    text = text_format.MessageToString(message, **form)
    assert ours(text) == message.SerializeToString(deterministic=True)


TOKENS = st.sampled_from(
    [
        "{",
        "}",
        "<",
        ">",
        "[",
        "]",
        ",",
        ";",
        ":",
        "name",
        "input",
        "dims",
        "7",
        "-3",
        '"x"',
        "'",
        "true",
        "TYPE_FP32",
        "latest",
        "all",
        "version_policy",
        "max_batch_size",
        "key",
        "value",
        "0.5",
        "# c\n",
        "99999999999999999999",
    ]
)


@given(st.sampled_from(sorted(SEEDS.iterdir())), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_texts_are_refused_alike(path, data):
    """After tokens are dropped, doubled, swapped or put in, we accept what protobuf accepts, with the same result."""
    tokens = [token.text for token in scan(path.read_text()) if token.kind != END]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, tokens[at])
            case 2:
                tokens[at], tokens[at - 1] = tokens[at - 1], tokens[at]
            case 3:
                tokens.insert(at, data.draw(TOKENS))
        if not tokens:
            return
    text = " ".join(tokens).replace("- ", "-")
    assert ours(text) == theirs(text)


@given(st.text(alphabet="ab:{}[]<>,;\"'\\ \n#.0x1-", max_size=30))
@settings(max_examples=300, deadline=None)
def test_nothing_but_our_fault_escapes(text):
    """Any text whatever is read or refused with places inside the text."""
    try:
        parse_config(text)
    except ConfigFault as fault:
        lines = text.split("\n")
        for item in fault.complaints:
            assert 1 <= item.line <= len(lines)
            assert 1 <= item.column <= len(lines[item.line - 1]) + 1
