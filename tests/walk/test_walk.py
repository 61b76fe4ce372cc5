"""The short form of the walk, with this environment's command: `make walk` does all of it in a fresh one."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.walk import operator, service_manager
from tests.walk.served import served
from tests.walk.shown import first_minutes
from tests.walk.walking import NotHere, Walk

DESPINA = Path(sys.executable).parent / "despina"
ADDSUB = Path(__file__).resolve().parents[2] / "examples" / "models" / "addsub"


@pytest.fixture
def walk():
    """A walk whose failures are the test's, and whose skipped steps skip it."""
    out = io.StringIO()
    walk = Walk(out)
    yield walk
    print(out.getvalue())
    assert not walk.failures, out.getvalue()
    if walk.skipped and not walk.done:
        pytest.skip(out.getvalue().strip())


@pytest.fixture(scope="module")
def one_model(tmp_path_factory):
    """A repository with the example that needs nothing but ONNX Runtime."""
    repository = tmp_path_factory.mktemp("walk") / "models"
    repository.mkdir()
    (repository / "addsub").symlink_to(ADDSUB)
    return repository


def test_what_is_seen_at_a_terminal(walk, one_model, tmp_path):
    """Goal: start, request and ^C at a terminal of 80 columns show what a person expects, unbroken."""
    first_minutes(walk, DESPINA, one_model, tmp_path)


def test_ending_under_load(walk, one_model, tmp_path):
    """Goal: 0 failed requests on both doors."""
    operator.ends_under_load(walk, DESPINA, one_model, tmp_path)


def test_scraped_and_rotated(walk, one_model, tmp_path):
    """Goal: a real Prometheus reads the metrics; a renamed log goes on in a new file."""
    with served(DESPINA, one_model, tmp_path / "server", "--model-control-mode=explicit", "--load-model=*") as server:
        operator.rotated(walk, server)
        operator.scraped(walk, server, tmp_path / "prometheus")


def test_under_a_service_manager(walk, one_model, tmp_path):
    """Goal: a manager hears of the server's life, and a stuck loop goes hungry."""
    service_manager.notified(walk, DESPINA, one_model, tmp_path / "n")
    service_manager.bitten(walk, DESPINA, tmp_path / "w")


def test_a_failed_step_is_told_and_counts():
    """Goal: the walk can fail, goes on then, and says so at its end."""
    out = io.StringIO()
    walk = Walk(out)
    with walk.step("breaks"):
        raise AssertionError("as planned")
    with walk.step("not here"):
        raise NotHere("no such tool")
    with walk.step("works"):
        walk.note("a figure")
    assert walk.close() == 1
    text = out.getvalue()
    assert "FAIL    breaks" in text
    assert "as planned" in text
    assert "skip    not here: no such tool" in text
    assert "1 steps done, 1 not possible here, 1 failed" in text
