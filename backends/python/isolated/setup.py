"""What a model's own process is told first."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Setup:
    """What the server says of the model: plain values."""

    name: str
    version: int
    model_path: str
    version_path: str
    file: str
    instance_name: str
    arguments: dict[str, str]
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
