"""Model versions as clients write them."""

from __future__ import annotations

import re

from .fault import InvalidArgument
from .inference import LATEST

# Leading zeros aside, more than 19 digits are no 64-bit number, and endless ones would take endless time. Without what
# Python 3.11 brought: this is read in models' own environments, too.
_LEADING_INTEGER = re.compile(r"\s*([+-]?)(?=[0-9])0*([1-9][0-9]{0,18}|)(?![0-9])")


def parse_version(text: str) -> int:
    """ "" is LATEST; leading digits are enough (`1abc` is 1). Raises InvalidArgument in the protocol's words."""
    if not text:
        return LATEST
    found = _LEADING_INTEGER.match(text)
    if found is None or not -(2**63) <= (version := int(f"{found[1]}0{found[2]}")) < 2**63:
        raise InvalidArgument(
            f"failed to get model version from specified version string '{text}' (details: stol), "
            "version should be an integral value > 0"
        )
    if version < 0:
        raise InvalidArgument(f"invalid model version specified '{text}' , version should be an integral value > 0")
    return version
