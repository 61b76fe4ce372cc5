"""The JSON dialect, its complaints word for word, and the typed accessors."""

import contextlib
import math

import pytest
from despina.schema import json_text
from despina.schema.fault import InvalidArgument, MalformedRequest
from despina.schema.json_text import read_first, read_json, read_pairs
from hypothesis import given
from hypothesis import strategies as st

PARSE = "failed to parse the request JSON buffer: "


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "The document is empty. at 0"),
        (b"  ", "The document is empty. at 2"),
        (b"{", "Missing a name for object member. at 1"),
        (b"{} x", "The document root must not be followed by other values. at 3"),
        (b'{"a":tru}', "Invalid value. at 8"),
        (b'{"a":1e400}', "Number too big to be stored in double. at 5"),
        (b'{"a":01}', "Missing a comma or '}' after an object member. at 6"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at 5"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at 3"),
        (b"[1,]", "Invalid value. at 3"),
        (b"// comment\n{}", "Invalid value. at 0"),
        (b'{"a":1.}', "Miss fraction part in number. at 7"),
        (b'{"a":1e}', "Miss exponent in number. at 7"),
        (b'{"a":"abc', "Missing a closing quotation mark in string. at 9"),
        (b'{"a":"\\x"}', "Invalid escape character in string. at 6"),
        (b'{"a":"\x01"}', "Invalid escape character in string. at 6"),
        (b'{"a":"\\ud800"}', "The surrogate pair in string is invalid. at 6"),
        (b'{"a":"\\u12"}', "Incorrect hex digit after \\u escape in string. at 6"),
        (b'{"id":"\xff"}', "Invalid encoding in string. at 7"),
        (b'{"id\xff":1}', "Invalid encoding in string. at 4"),
        (b'{"data":["\xff\xfe", x]}', "Invalid value. at 15"),
        ('{"data":["\U0010ff80_"]}'.encode().replace(b"_", b"\xff"), "Invalid encoding in string. at 14"),
    ],
)
def test_syntax_errors_name_reason_and_byte_offset(text, complaint):
    """Texts and offsets are those of the reference server."""
    with pytest.raises(MalformedRequest) as caught:
        read_json(text)
    assert caught.value.message == PARSE + complaint
    assert caught.value.http_status == 500


def test_literals_outside_the_standard():
    """NaN and the infinities are values, in every spelling that the dialect has."""
    values = read_json(b"[NaN, Infinity, Inf, -Infinity, -Inf]")
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, math.inf, -math.inf, -math.inf]


def test_byte_order_mark_is_skipped():
    """The reference server accepts one."""
    assert read_json(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


def test_tensor_strings_keep_bytes_that_are_not_utf8():
    """Under `data` stray bytes survive as surrogates, next to well-formed text."""
    value = read_json('{"é":[{"data":["a_é",["_"],1]}]}'.encode().replace(b"_", b"\xff\xc3"))
    strings = value["é"][0]["data"]
    assert strings[0].encode("utf-8", "surrogateescape") == b"a\xff\xc3" + "é".encode()
    assert strings[1][0].encode("utf-8", "surrogateescape") == b"\xff\xc3"


def test_repeated_members():
    """The two parsers agree: the last counts for who only reads, the first for who asks for it."""
    for text in (b'{"a":1,"a":2}', b'{"a":1,"a":NaN,"a":2}', b'\xef\xbb\xbf{"a":1,"a":2}'):
        assert read_json(text) == {"a": 2}
        assert read_first(text) == {"a": 1}
    deep = b'{"x":[[{"a" : 1, "b":":", "a":2}, {"c":3}]], "data":["\xff"], "d":18446744073709551616}'
    value = read_first(deep)
    assert value["x"] == [[{"a": 1, "b": ":"}, {"c": 3}]]
    assert value["data"] == ["\udcff"]
    assert type(value["d"]) is float


def test_what_looks_repeated():
    """Colons in strings, names in strings and objects behind numbers make nobody believe in repetition."""
    for text in (b'{"a":"b:c","d":"\\":"}', b'{"a":"\\"a\\": 1"}', b'[1,{"a":1}]', b'{"a":[]}', b"[]", b'"a:"'):
        value = read_json(text)
        assert read_first(text) == value
        pairs = read_pairs(text, value)
        assert pairs is None or pairs.first() == value


def test_pairs():
    """Members as they come, with repetition, for the object and those in it."""
    text = b'{"a":1,"b":{"c":2,"c":3},"a":4}'
    pairs = read_pairs(text, read_json(text))
    assert pairs == [("a", 1), ("b", [("c", 2), ("c", 3)]), ("a", 4)]
    assert pairs.first() == {"a": 1, "b": [("c", 2), ("c", 3)]}
    assert [name for name, _ in pairs.as_first()] == ["a", "b", "a"]
    assert pairs.as_first()[2] == ("a", 1)


def test_counting_members_of_a_deep_document_costs_no_stack():
    """As deep as the fast parser goes."""
    text = b'{"a":' * 1000 + b'":"' + b"}" * 1000
    with pytest.raises(InvalidArgument, match="nesting depth"):
        read_first(text)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(0, 3))
def test_doubles_are_read_exactly_beside_nan(values, extra):
    """Every double comes back as it was written, in its shortest form or with more digits, with or without a `NaN`."""
    texts = [f"{value:.{17 + extra}g}" if extra else repr(value) for value in values]
    text = f"[{','.join(texts)},NaN]".encode()
    assert read_json(text)[:-1] == values
    assert read_json(text.replace(b",NaN", b"")) == values
    assert read_json(text.replace(b"NaN", b"-Infinity")) == [*values, -math.inf]


def test_doubles_too_large_are_refused_beside_nan():
    """Not taken for infinity."""
    for number in (b"1e309", b"1.7976931348623159e308", b"1" * 400):
        with pytest.raises(MalformedRequest, match="Number too big to be stored in double"):
            read_json(b"[NaN,%b]" % number)


def test_integers_beyond_64_bits_are_no_integers_on_both_paths():
    """They come as floats, which the integer accessors refuse."""
    for text in (b"[18446744073709551616,-9223372036854775809]", b"[18446744073709551616,-9223372036854775809,NaN]"):
        values = read_json(text)
        assert type(values[0]) is float
        assert type(values[1]) is float


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 2000 + b'"' + b"]" * 5000,
        b"[" * 104 + b"NaN" + b"]" * 104,
    ],
)
def test_depth_is_bounded_before_a_recursive_parser_looks(text):
    """Hostile nesting is a plain refusal."""
    with pytest.raises(InvalidArgument) as caught:
        read_json(text)
    assert caught.value.message == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_depth_that_is_allowed():
    """Brackets in strings and beside each other do not count, and the deepest legal document passes."""
    assert len(read_json(b'["' + b"[" * 500 + b'\\"", NaN]')) == 2
    assert len(read_json(b"[" + b"[]," * 500 + b"NaN]")) == 501
    assert read_json(b"[" * 103 + b"NaN" + b"]" * 103)


@pytest.mark.parametrize(
    ("accessor", "good", "bad", "text"),
    [
        ("as_string", ["", "a"], [1, None, True], "attempt to access JSON non-string as string"),
        ("as_boolean", [True], [1, 0, None, "true"], "attempt to access JSON non-boolean as boolean"),
        (
            "as_unsigned",
            [0, 2**64 - 1],
            [-1, 1.0, 2.0**64, True, "1", None],
            "attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        ("as_array", [[]], [{}, 1, None], "attempt to access JSON non-array as array"),
        ("as_object", [{}], [[], 1, None], "attempt to access JSON non-object as object"),
        ("members", [{}], [[], 1, None], "attempt to get members for non-object"),
    ],
)
def test_accessors(accessor, good, bad, text):
    """Each takes its own type only and says so in the protocol's words, after the caller's prefix."""
    read = getattr(json_text, accessor)
    for value in good:
        assert read(value) == value
    for value in bad:
        with pytest.raises(MalformedRequest) as caught:
            read(value, "Unable to parse 'x': ")
        assert caught.value.message == f"Unable to parse 'x': {text}"


def test_member():
    """A missing member, and a parent that is no object, read the same."""
    assert json_text.member({"a": None}, "a") is None
    for parent in ({}, [], None, 1):
        with pytest.raises(MalformedRequest) as caught:
            json_text.member(parent, "a", "P: ")
        assert caught.value.message == "P: attempt to access non-existing object member 'a'"


@given(st.binary(max_size=60) | st.text('[]{}",:0123eE.-+NaInfty \\u', max_size=60).map(str.encode))
def test_any_bytes_give_a_value_or_a_fault(text):
    """No other exception comes out."""
    with contextlib.suppress(MalformedRequest, InvalidArgument):
        read_json(text)


def test_parsed_buffers_may_be_of_any_kind():
    """Views and bytearrays are read like bytes, on both paths."""
    for text in (b'{"a":1}', b'{"a":Inf}'):
        assert read_json(memoryview(text)) == read_json(bytearray(text)) == read_json(text)
