"""Checks of our own for schemathesis, which loads this module by the name in SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import schemathesis


@schemathesis.check
def nothing_breaks(ctx, response, case) -> None:
    """The protocol's own 500 has words of its own; this text stands for an exception that nobody expected."""
    assert b"internal error" not in response.content, response.text
