import pytest
from despina.schema.fault import ModelFailure
from despina.schema.kserve_http_reply import encode_error, quote
from despina.schema.text import encodable, is_encodable
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("é\U0001f600", "é\U0001f600"),
        ("a\udc80b", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00x", "\ufffd\U0001f600x"),
        ("\ud83d", "\ufffd"),
    ],
)
def test_texts_become_encodable(text, expected):
    """Halves that belong together are joined, others replaced, all else stays."""
    assert encodable(text) == expected


@given(st.text(st.characters()))
def test_anything_becomes_encodable(text):
    """And what is encodable already is not touched."""
    made = encodable(text)
    made.encode()
    assert (made == text) == is_encodable(text)


def test_faults_say_what_every_door_can():
    """The message, the exception's own text and the reason agree."""
    fault = ModelFailure("a\udc80b")
    assert (fault.message, str(fault), fault.as_reason()) == ("a\ufffdb", "a\ufffdb", "Internal: a\ufffdb")


def test_json_strings_are_utf8():
    assert quote("a\udc80b").decode() == '"a\ufffdb"'
    assert encode_error("\ud83d\ude00").decode() == '{"error":"\U0001f600"}'
