"""This project's server, for the tests with the real clients."""

from __future__ import annotations

import pytest

from tests.conformance.servers import running_despina
from tests.conformance.suites import EXPLICIT, HERE


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server over `models/`."""
    with running_despina(HERE / "models", tmp_path_factory.mktemp("clients")) as running:
        yield running


@pytest.fixture(scope="session")
def explicit_server(tmp_path_factory):
    """A server over `models_explicit/` in explicit mode, nothing loaded."""
    with running_despina(HERE / "models_explicit", tmp_path_factory.mktemp("explicit"), EXPLICIT) as running:
        yield running
