"""How many references `sys.getrefcount` counts without anybody else's, for those who hand memory over by its count.

Interpreters differ: some count the argument, those that borrow it do not.
"""

from __future__ import annotations

import sys


def _local_references() -> int:
    thing = object()
    return sys.getrefcount(thing)


LOCAL_REFERENCES = _local_references()
"""Of `sys.getrefcount(name)` where `name` is local and nothing else refers to the object."""
