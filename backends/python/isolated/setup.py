"""What a model's own process is told first."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Setup:
    """What the server says of the model: plain values."""

    name: str
    version: int
    folders: list[str] = attrs.field(factory=list)
    """Where its modules are: the version's, the model's, and its backend's, if that is written in Python."""
    file: str = ""
    library: dict[str, Any] | None = None
    """Of a model whose backend is a library in C++, instead of the three: see backends/native/isolated.py."""
    instance_name: str
    """Empty to complete a configuration."""
    arguments: dict[str, str] = attrs.field(factory=dict)
    """For `initialize`; empty to complete a configuration."""
    config: str
    """As JSON."""
    output_names: list[str]
    decoupled: bool
    iterative: bool
    may_ask: bool
    """Whether there is an engine to ask other models."""
    memory_bytes_max: int
    """Of address space; 0 for no limit."""
    log_level: int

    @property
    def title(self) -> str:
        """What texts call the process: by the protocol's word where a model.py is in it."""
        if self.library is None:
            return f"Stub process '{self.instance_name or self.name}'"
        instance = f", instance '{self.instance_name}'," if self.instance_name else ""
        return f"The process of model '{self.name}'{instance}"
