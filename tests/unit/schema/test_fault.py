"""The tree of faults: each leaf has a status on both protocols, and copies stay what they are."""

from __future__ import annotations

import pytest
from despina.schema import fault as faults
from despina.schema.fault import BY_CODE_NAME, Fault, InvalidArgument, ModelFailure, QueueFull, Unavailable


def descendants(kind):
    for child in kind.__subclasses__():
        if child.__module__ == faults.__name__:
            yield child
            yield from descendants(child)


FAULTS = list(descendants(Fault))


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_every_fault_has_statuses(kind):
    """No fault is without an HTTP error status, a gRPC error status and a code text."""
    assert 400 <= kind.http_status <= 599
    assert 1 <= kind.grpc_status <= 16
    assert kind.code_text
    assert kind("text").as_reason() == f"{kind.code_text}: text"


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_copies_are_equal_and_fresh(kind):
    """A copy is of the same class with the same text, and carries no traceback."""
    with pytest.raises(kind) as caught:
        raise kind("text")
    copied = caught.value.copy()
    assert type(copied) is kind
    assert copied is not caught.value
    assert str(copied) == copied.message == "text"
    assert copied.__traceback__ is None


def test_a_status_is_inherited():
    """Leaves that differ only in whose fault they are keep their parent's statuses."""
    assert (QueueFull.http_status, QueueFull.grpc_status) == (Unavailable.http_status, Unavailable.grpc_status)


def test_codes_of_user_models():
    """A model's own error codes map to faults that are answered with the same code; INTERNAL blames the model."""
    assert BY_CODE_NAME["INTERNAL"] is ModelFailure
    assert BY_CODE_NAME["INVALID_ARG"] is InvalidArgument
    assert set(BY_CODE_NAME) == {
        "UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"
    }  # fmt: skip


def test_without_a_message():
    """A fault may be raised bare."""
    assert str(Fault()) == ""
