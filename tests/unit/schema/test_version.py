"""Model versions as text, read as leniently as the reference server reads them."""

from __future__ import annotations

import pytest
from despina.schema.fault import InvalidArgument
from despina.schema.inference import LATEST, InferenceRequest
from despina.schema.version import parse_version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", LATEST),
        ("1", 1),
        ("0", 0),
        ("007", 7),
        (" 3", 3),
        ("+4", 4),
        ("1abc", 1),
        ("2.9", 2),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_versions(text, expected):
    """Leading digits are enough, and nothing at all means the latest."""
    assert parse_version(text) == expected


@pytest.mark.parametrize("text", ["abc", " ", "-", "v1", str(2**63), "9" * 100_000, "٣", "é"])
def test_no_integer(text):
    """What is no 64-bit integer is refused with the text that names the conversion."""
    with pytest.raises(InvalidArgument) as caught:
        parse_version(text)
    assert str(caught.value) == (
        f"failed to get model version from specified version string '{text}' (details: stol), "
        "version should be an integral value > 0"
    )


@pytest.mark.parametrize("text", ["-1", "-2", "-9223372036854775808"])
def test_negative_versions(text):
    """Minus one is how the latest is meant inside, not a version that a client may write."""
    with pytest.raises(InvalidArgument) as caught:
        parse_version(text)
    assert str(caught.value) == (f"invalid model version specified '{text}' , version should be an integral value > 0")


@pytest.mark.parametrize(("id", "expected"), [("", "[request id: <id_unknown>] "), ("x", "[request id: x] ")])
def test_log_prefix(id, expected):
    """Request-scoped texts begin with the request's id."""
    assert InferenceRequest("m", {}, id=id).log_prefix() == expected
