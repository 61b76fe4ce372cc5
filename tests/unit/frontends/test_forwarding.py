"""Headers that become parameters."""

import pytest
from despina.frontends.forwarding import HeaderForwarder, open_forwarder
from despina.schema.fault import InvalidArgument
from despina.schema.inference import InferenceRequest


def forwarded(pattern, *fields, parameters=None):
    request = InferenceRequest("m", {}, parameters=parameters)
    HeaderForwarder(pattern).forward(fields, request)
    return request.parameters


def test_any_part_of_the_name_in_any_case():
    """Goal: the pattern may match anywhere and in any case; names and values stay as received."""
    assert forwarded("my-.*", ("X-MY-Thing", "One"), ("Other", "2")) == {"X-MY-Thing": "One"}
    assert forwarded("^my", ("X-My", "1")) is None


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("(?-i)^My", ["My-1"], ["my-1", "MY"]),
        ("a(?-i)b|c", ["Ab", "c"], ["aB", "C"]),  # a flag holds beyond the bar, in its group
        ("x(a(?-i)b|c)d", ["XabD", "xcD"], ["xaBd", "xCd"]),  # and ends with it
        ("(?-i)A(?i)b", ["AB", "Ab"], ["ab"]),
        (r"(?-i)[(?i)B]\(", ["B(", "i("], ["b(", "b"]),  # no flags inside a class, no group after a backslash
        ("(?i)(?P<x>a)(?:b)", ["AB"], ["b"]),
    ],
)
def test_flags_as_the_reference_reads_them(pattern, matches, others):
    """Goal: `(?-i)` and its like switch where they stand, until their group ends."""
    for name in matches:
        assert forwarded(pattern, (name, "1")) == {name: "1"}
    for name in others:
        assert forwarded(pattern, (name, "1")) is None


@pytest.mark.parametrize("pattern", ["(", "[[:alpha:]]", "(?U)a", "(?-i)*", "(?-i", "a)", r"\pN"])
def test_patterns_that_mean_something_else_here(pattern):
    """Goal: what Python cannot run, or would read in another way than the reference server, is refused."""
    with pytest.raises(ValueError, match=r"^not a regular expression: "):
        HeaderForwarder(pattern)


def test_first_of_repeated_wins_and_over_the_requests_own():
    """Goal: a header replaces a parameter of its name, as the reference has it; of repeated ones the first counts."""
    assert forwarded("a", ("a", "1"), ("a", "2"), ("ab", "3"), parameters={"ab": 4}) == {"a": "1", "ab": "3"}


@pytest.mark.parametrize("name", ["sequence_id", "priority", "timeout", "headers", "binary_data_output", "triton_x"])
def test_reserved_names(name):
    """Goal: a header that would pass for a parameter of the protocol is refused in the protocol's words."""
    with pytest.raises(InvalidArgument, match=f"^Header '{name}' is reserved for Triton usage and cannot be forwarded"):
        forwarded(".*", (name, "1"))


def test_nothing_to_forward():
    """Goal: without a pattern there is no forwarder; without a match the request is left alone."""
    assert open_forwarder("") is None
    kept = {"a": 1}
    assert forwarded("x", ("y", "1"), parameters=kept) is kept
