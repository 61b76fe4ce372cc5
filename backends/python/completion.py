"""Configurations on their way to a model's methods, and back from `auto_complete_config`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ...schema.config.copying import copied
from ...schema.model_config import config_from_json, config_to_json
from .model_config import ModelConfig

if TYPE_CHECKING:
    from ...engine.port.backend import InstanceContext, ModelContext
    from ...schema.wire.generated.inference import ModelConfig as ConfigMessage


def helper_for(config: ConfigMessage) -> ModelConfig:
    """What `auto_complete_config` is called with."""
    return ModelConfig(config_to_json(config).decode())


def apply(completed: ModelConfig, config: ConfigMessage) -> ConfigMessage:
    """A copy of `config` with what a model may complete. Raises InvalidArgument for values that no field takes."""
    parts = ("max_batch_size", "input", "output", "dynamic_batching", "model_transaction_policy")
    given = completed.as_dict()
    read = config_from_json(json.dumps({key: given[key] for key in parts if key in given}))
    config = copied(config)
    config.max_batch_size = read.max_batch_size
    config.input = read.input
    config.output = read.output
    config.model_transaction_policy = read.model_transaction_policy
    if read.dynamic_batching is not None:
        config.dynamic_batching = read.dynamic_batching
        if not config.dynamic_batching.preferred_batch_size and config.max_batch_size > 0:
            config.dynamic_batching.preferred_batch_size = [config.max_batch_size]
    return config


def arguments(context: ModelContext, config: ConfigMessage, instance: InstanceContext) -> dict[str, str]:
    """What `initialize` receives: strings all."""
    return {
        "model_config": config_to_json(config).decode(),
        "model_instance_kind": instance.kind,
        "model_instance_name": instance.name,
        "model_instance_device_id": str(instance.device_id),
        "model_repository": str(context.model_path),
        "model_version": str(context.version),
        "model_name": context.name,
    }


def is_iterative(config: ConfigMessage) -> bool:
    """Whether a request may be executed again and again."""
    return config.sequence_batching is not None and config.sequence_batching.iterative_sequence


def is_decoupled(config: ConfigMessage) -> bool:
    return config.model_transaction_policy is not None and config.model_transaction_policy.decoupled
