"""A configuration of one's own to change."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..wire.generated.inference import ModelConfig


def copied(config: ModelConfig) -> ModelConfig:
    """A copy that shares nothing with `config`: the functions here never change what they are given."""
    return copy.deepcopy(config)
