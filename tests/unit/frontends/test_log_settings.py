"""What may be logged, changed while the server runs."""

import logging

import pytest
from despina.frontends.log_settings import LogSettings
from despina.schema.fault import InvalidArgument, Unsupported


@pytest.fixture(autouse=True)
def level():
    ours = logging.getLogger("despina")
    before = ours.level
    yield
    ours.setLevel(before)


def test_verbose_level_reaches_the_loggers():
    """Goal: level 1 makes DEBUG records, 0 makes none."""
    settings = LogSettings()
    settings.put("log_verbose_level", 1)
    assert logging.getLogger("despina.http").isEnabledFor(logging.DEBUG)
    assert settings.allows(logging.DEBUG)
    settings.put("log_verbose_level", 0)
    assert not logging.getLogger("despina.http").isEnabledFor(logging.DEBUG)


def test_shown_members_are_the_protocols_in_order():
    """Goal: names, order and values."""
    settings = LogSettings(file="x.log")
    settings.put("log_info", False)
    settings.put("log_format", "ISO8601")
    assert list(settings.shown().items()) == [
        ("log_file", "x.log"),
        ("log_info", False),
        ("log_warning", True),
        ("log_error", True),
        ("log_verbose_level", 0),
        ("log_format", "ISO8601"),
    ]


def test_refusals():
    """Goal: the file cannot be changed; an unknown format is named and changes nothing."""
    settings = LogSettings()
    with pytest.raises(Unsupported, match="log file location can not be updated through network protocol"):
        settings.put("log_file", "y")
    with pytest.raises(InvalidArgument, match="invalid argument for log_format, got: XX"):
        settings.put("log_format", "XX")
    assert settings == LogSettings()
