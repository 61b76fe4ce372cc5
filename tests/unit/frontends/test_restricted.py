"""The options that restrict APIs."""

import pytest
from despina.frontends.restricted import CATEGORIES, by_path, read_restrictions
from despina.schema.wire.generated.inference import GrpcInferenceServiceBase


def test_groups_and_prefix():
    """Goal: each category of a group asks for the group's key behind the protocol's prefix."""
    complaints = []
    found = read_restrictions(["health,trace:Key=a=b", "inference:k=v"], "o", complaints, prefix="p-")
    assert complaints == []
    assert found == {"health": (b"p-Key", b"a=b"), "trace": (b"p-Key", b"a=b"), "inference": (b"p-k", b"v")}


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["health,nope:k=v"], "unknown restricted api 'nope'"),
        (["health:k=v", "health:l=w"], "restricted api 'health' can not be specified in multiple config groups"),
        (["health"], "--o option format is '<apis>:<key>=<value>'. Got health"),
        (["health:k"], "--o option format is '<apis>:<key>=<value>'. Got health:k"),
        ([":k=v"], "--o option format is '<apis>:<key>=<value>'. Got :k=v"),
    ],
)
def test_complaints(texts, complaint):
    """Goal: every mistake has the protocol's words."""
    complaints = []
    read_restrictions(texts, "o", complaints)
    assert complaints == [complaint]


def test_every_rpc_has_a_category():
    """Goal: no RPC is forgotten: restricting everything names them all."""
    paths = by_path(dict.fromkeys(CATEGORIES, (b"k", b"v")))
    assert set(GrpcInferenceServiceBase().__mapping__()) <= set(paths)
