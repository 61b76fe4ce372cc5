"""For who writes a backend: `backend_suite`, the tests that each backend must pass. See backends/AUTHORING.md."""

from contextlib import suppress

with suppress(ImportError):  # a failure of the suite then says what it compared
    import pytest

    pytest.register_assert_rewrite("despina.backends.testing.backend_suite")

from .backends.testing import backend_suite

__all__ = ["backend_suite"]
