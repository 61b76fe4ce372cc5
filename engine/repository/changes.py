"""What has changed between two loads of a model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...schema.config.copying import copied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...schema.wire.generated.inference import ModelConfig

_CONFIGURATION = frozenset({"", "config.pbtxt", "configs"})
"""Entries of a model's directory whose times say nothing of the model but its configuration; "" is the directory's own,
which any editor changes."""


def is_newer(times_ns: Mapping[str, int], known_ns: Mapping[str, int]) -> bool:
    """True when something in the model's directory is newer than anything was. No times at all are older than any."""
    return max(times_ns.values(), default=0) > max(known_ns.values(), default=0)


def only_configuration_differs(times_ns: Mapping[str, int], known_ns: Mapping[str, int]) -> bool:
    """True when all files are the same but for the configuration, as far as times tell; unknown times tell nothing."""
    if not times_ns or not known_ns:
        return False
    return _beside_configuration(times_ns) == _beside_configuration(known_ns)


def only_instances_differ(old: ModelConfig, new: ModelConfig) -> bool:
    """True when two configurations say the same but for instance groups, and for which versions are served."""
    return _without_instances(old) == _without_instances(new)


def _beside_configuration(times_ns: Mapping[str, int]) -> dict[str, int]:
    return {entry: time_ns for entry, time_ns in times_ns.items() if entry not in _CONFIGURATION}


def _without_instances(config: ModelConfig) -> ModelConfig:
    config = copied(config)
    config.instance_group = []
    config.version_policy = None
    return config
