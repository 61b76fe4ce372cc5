"""Instance groups: how many instances a model has, where, and what they are called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..fault import Internal, InvalidArgument
from ..wire.generated.inference import ModelConfig, ModelInstanceGroup, ModelInstanceGroupKind
from .backend_names import TENSORRT_PLATFORM
from .copying import copied

if TYPE_CHECKING:
    from collections.abc import Sequence

_TWO_ON_CPU = frozenset({"onnxruntime", "tensorflow"})
"""Backends whose CPU models run better as two instances than as one."""
INSTANCES_MAX = 1024
"""Of one model. Ours: each is a thread, or more, and memory."""

_LEADING_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,9}+)(?![0-9])")


def normalise_instance_groups(
    config: ModelConfig, gpus: Sequence[int], preferred_kind: ModelInstanceGroupKind | None = None
) -> ModelConfig:
    """The configuration with every group's name, kind, count and GPUs written out. Ensembles have none.

    `gpus` are the ids of the GPUs that may be used; `preferred_kind` is what the backend wants for a model that names
    no group, and means nothing when it is GPU and there is none.
    """
    config = copied(config)
    if config.ensemble_scheduling is not None:
        return config
    usable = sorted(set(gpus))
    kinds = ModelInstanceGroupKind
    if not config.instance_group:
        kind = preferred_kind or kinds.AUTO
        if kind == kinds.GPU and not usable:
            kind = kinds.AUTO
        config.instance_group = [ModelInstanceGroup(name=config.name, kind=kind)]
    for index, group in enumerate(config.instance_group):
        group.name = group.name or f"{config.name}_{index}"
        if group.kind == kinds.AUTO:
            group.kind = kinds.GPU if usable and set(group.gpus) <= set(usable) else kinds.CPU
        if group.count < 1:
            group.count = 2 if group.kind == kinds.CPU and config.backend in _TWO_ON_CPU else 1
        if group.kind == kinds.GPU and not group.gpus:
            group.gpus = list(usable)
    return config


def validate_instance_groups(
    config: ModelConfig, gpus: Sequence[int], min_compute_capability: float, *, gpu_support: bool = True
) -> None:
    """Refuses normalised groups that cannot be had here. `gpu_support` is False where no GPU could ever be used; the
    minimum capability is only for the text."""
    if config.ensemble_scheduling is not None:
        return
    if not config.instance_group:
        raise InvalidArgument(f"must specify one or more 'instance group's for {config.name}")
    for group in config.instance_group:
        prefix = f"instance group {group.name} of model {config.name}"
        if group.kind == ModelInstanceGroupKind.GPU:
            _validate_gpus(group, prefix, sorted(set(gpus)), min_compute_capability, gpu_support)
        elif group.kind not in (ModelInstanceGroupKind.CPU, ModelInstanceGroupKind.MODEL):
            raise Internal(f"{prefix} has unexpected kind KIND_AUTO")
        elif group.gpus:
            raise InvalidArgument(f"{prefix} has kind KIND_{group.kind.name} but specifies one or more GPUs")
        _validate_profiles(group, prefix, config.platform)
    count = sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)
    if count > INSTANCES_MAX:
        raise InvalidArgument(
            f"instance groups of model {config.name} ask for {count} instances, the limit is {INSTANCES_MAX}"
        )


def _validate_gpus(
    group: ModelInstanceGroup, prefix: str, usable: list[int], min_compute_capability: float, gpu_support: bool
) -> None:
    if not gpu_support:
        raise InvalidArgument(f"{prefix} has kind KIND_GPU but server does not support GPUs")
    if not group.gpus:
        why = "specifies no GPUs" if usable else "no GPUs are available"
        raise InvalidArgument(f"{prefix} has kind KIND_GPU but {why}")
    for gpu in group.gpus:
        if gpu not in usable:
            raise InvalidArgument(
                f"{prefix} specifies invalid or unsupported gpu id {gpu}. GPUs with at least the minimum required CUDA "
                f"compute compatibility of {min_compute_capability:.6f} are: {', '.join(map(str, usable))}"
            )


def _validate_profiles(group: ModelInstanceGroup, prefix: str, platform: str) -> None:
    if group.profile and platform != TENSORRT_PLATFORM:
        # No space after the platform: so the protocol's text runs.
        raise InvalidArgument(
            f"{prefix} and platform {platform}specifies profile field which is only supported for TensorRT models"
        )
    for profile in group.profile:
        if not profile:
            raise InvalidArgument("profile name must not be empty")
        found = _LEADING_INTEGER.match(profile)
        if found is None:
            raise InvalidArgument(f"unable to parse '{profile}': stoi")
        if int(found[1]) < 0:
            raise InvalidArgument(
                f"{prefix} and platform {platform} specifies invalid profile {profile}. The field should contain the "
                "string representation of a non-negative integer."
            )
