"""Where on the machine instances live, as the operator says by name: what `--host-policy` means."""

from __future__ import annotations

from typing import Final

import attrs

SETTINGS: Final = ("numa-node", "cpu-cores")


@attrs.frozen(kw_only=True)
class HostPolicy:
    """One policy, in the operator's words; they are read where they are applied. A policy that nobody has said anything
    of has a name only."""

    name: str = ""
    numa_node: str = ""
    """A number: memory comes from there."""
    cpu_cores: str = ""
    """`first-last`: threads run there."""

    @property
    def binds(self) -> bool:
        """Whether it says anything."""
        return bool(self.numa_node or self.cpu_cores)
