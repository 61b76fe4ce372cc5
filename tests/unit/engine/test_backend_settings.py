"""What `--backend-config` may say: settings that nobody reads are passed on, with a warning."""

from __future__ import annotations

import logging

import pytest
from despina.engine.repository.discovery import Backends


class Reading:
    """A backend that reads one setting, and knows one that it ignores."""

    settings = {"threads": "", "pool-size": "it has no pool"}  # noqa: RUF012


class Silent:
    """A backend that does not say what it reads."""


@pytest.fixture
def warned(caplog):
    """Makes Backends, asks for some, and gives the lines of the log."""

    def make(config, *needed):
        with caplog.at_level(logging.INFO, "despina.engine"):
            backends = Backends({"reading": Reading(), "silent": Silent()}, config)
            for name in needed:
                backends.get(name)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return make


def test_a_setting_that_the_backend_lacks(warned):
    """Goal: a slip is named once, when the backend is first needed, with what was probably meant."""
    settings = {"thread": "1", "threads": "2", "default-max-batch-size": "3"}
    found = warned({"reading": settings}, "reading", "reading")
    assert found == [
        ("WARNING", "--backend-config reading,thread=...: the backend has no such setting. Did you mean 'threads'?")
    ]


def test_a_setting_without_effect(warned):
    """Goal: what start scripts for the reference server say of its pools and processes is no mistake."""
    found = warned({"reading": {"pool-size": "1"}}, "reading")
    assert found == [("INFO", "--backend-config reading,pool-size=... has no effect here (it has no pool).")]


def test_nothing_to_compare_with(warned):
    """Goal: a backend that does not say what it reads, or is not needed, gives no warning."""
    assert warned({"silent": {"a": "1"}, "reading": {"a": "1"}}, "silent") == []


def test_backends_that_are_not_installed_and_settings_for_all(warned):
    """Goal: both are said at once: no load will bring them up."""
    (absent, for_all) = warned({"caffe": {"version": "2"}, "": {"default-max-batch-size": "8", "maximum": "1"}})
    assert absent[1].startswith("--backend-config caffe,...: no backend 'caffe' is installed.")
    assert for_all[1] == (
        "--backend-config maximum=...: no setting for all backends (there is backend-directory, default-max-batch-size)"
        "; each is given it nevertheless."
    )
