"""Everything that is wrong with one configuration text, told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .fault import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence


@attrs.frozen
class Complaint:
    line: int
    """From 1."""
    column: int
    """From 1, in characters; a tab is one."""
    message: str


class ConfigFault(InvalidArgument):
    """A configuration that cannot be read. Its text has one `source:line:column: what` per complaint."""

    def __init__(self, source: str, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(f"{source}:{item.line}:{item.column}: {item.message}" for item in complaints))
        self.source = source
        self.complaints = list(complaints)

    def copy(self) -> ConfigFault:
        return ConfigFault(self.source, self.complaints)
