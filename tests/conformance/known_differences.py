"""Where this project's answers differ from the reference server's on purpose: data, each with its reason.

A key is `(suite, pattern)`: the pattern matches a probe's whole name, as in fnmatch. The reference server is release 24.10; the
rule is the newest release's behaviour, and the reference's wording where the two differ in wording or status only.
A difference that no longer exists fails the tests, so that this table stays true.
"""

from __future__ import annotations

KNOWN_DIFFERENCES: dict[tuple[str, str], str] = {}
