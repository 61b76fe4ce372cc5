"""From a model's directory to a configuration that the engine can serve. Blocking file access; no state.

read ── agents ── names ── normalise ── validate ──▶ backend opens and completes ──▶ complete ──▶ instances
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ...schema.fault import InvalidArgument, Unsupported
from ...schema.model_config import (
    ModelListing,
    accept_completion,
    check_directory_name,
    collected,
    complete_names,
    config_from_json,
    normalise,
    normalise_instance_groups,
    parse_config,
    refuse_all,
    validate,
    validate_file_names,
    validate_instance_groups,
    validate_io,
    validate_states,
)
from ...schema.wire.generated.inference import ModelConfig, ModelInstanceGroupKind
from ..port.backend import InstanceContext
from ..port.host_policy import HostPolicy
from ..port.resources import Resource
from .model_directory import config_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..port.backend import Backend, InstanceKind
    from ..port.settings import EngineSettings
    from ..port.store import ModelSource

_KINDS: dict[ModelInstanceGroupKind, InstanceKind] = {
    ModelInstanceGroupKind.CPU: "CPU",
    ModelInstanceGroupKind.GPU: "GPU",
    ModelInstanceGroupKind.MODEL: "MODEL",
}
DEFAULT_MAX_BATCH_SIZE = "4"
BATCH_STRATEGY = "batchstrategy.so"
"""A library by which the reference server decides which requests share a batch."""


def read(path: Path, override: str | None, settings: EngineSettings) -> ModelConfig:
    """The configuration as it is written. `override` is a whole one in JSON that takes the place of the file.

    Raises InvalidArgument.
    """
    if override is not None:
        try:
            return config_from_json(override)
        except InvalidArgument as fault:
            raise InvalidArgument(f"Invalid config override: {fault.message}") from fault
    file = config_file(path, settings.model_config_name)
    try:
        return parse_config(file.read_bytes(), source=str(file))
    except FileNotFoundError:
        if settings.disable_auto_complete_config:
            raise InvalidArgument(f"failed to open text file for read {file}: No such file or directory") from None
        return ModelConfig()
    except OSError as error:
        raise InvalidArgument(f"failed to open text file for read {file}: {error.strerror}") from error


def settle(config: ModelConfig, name: str, source: ModelSource, settings: EngineSettings) -> ModelConfig:
    """The configuration as far as it follows from the directory: named, normalised, validated. Raises
    InvalidArgument."""
    if source.renamed:
        config.name = name
    config = complete_names(config, name, _listing(source.path))
    check_directory_name(config, name)
    config = normalise(config)
    checks = [partial(validate, config)]
    if settings.disable_auto_complete_config:
        checks.append(partial(validate_io, config))
    _refuse_together(*checks)
    return config


def complete(
    config: ModelConfig, completed: ModelConfig, backend: Backend, gpus: Sequence[int], settings: EngineSettings
) -> ModelConfig:
    """The configuration to serve, after the backend has had its say. Raises InvalidArgument, Internal, Unsupported."""
    config = accept_completion(config, completed)
    preferred = backend.preferred_kind
    config = normalise_instance_groups(
        config, gpus, ModelInstanceGroupKind.from_string(preferred) if preferred else None
    )
    _refuse_together(
        partial(validate, config),
        partial(validate_io, config),
        partial(validate_instance_groups, config, gpus, settings.min_supported_compute_capability),
        partial(validate_states, config),
    )
    refuse_unbuilt(config)
    return config


def _refuse_together(*checks: Callable[[], None]) -> None:
    found: list[str] = []
    for check in checks:
        with collected(found):
            check()
    refuse_all(found)


def complete_ensemble(config: ModelConfig) -> ModelConfig:
    """The same for an ensemble, which has no backend."""
    validate_io(config)
    refuse_unbuilt(config)
    return config


def instances(config: ModelConfig, settings: EngineSettings) -> list[InstanceContext]:
    """Every instance that the groups ask for; passive ones get none."""
    contexts: list[InstanceContext] = []
    for group in config.instance_group:
        if group.passive:
            continue
        kind = _KINDS[group.kind]
        resources = tuple(
            Resource(name=resource.name, count=resource.count, is_global=resource.global_)
            for resource in (group.rate_limiter.resources if group.rate_limiter is not None else ())
        )
        for device_id in group.gpus if kind == "GPU" else (0,):
            contexts.extend(
                InstanceContext(
                    name=f"{group.name}_{index}",
                    kind=kind,
                    device_id=device_id,
                    resources=resources,
                    host_policy=_host_policy(group.host_policy or _default_policy(kind, device_id), settings),
                    priority=0 if group.rate_limiter is None else group.rate_limiter.priority,
                    profiles=tuple(group.profile),
                )
                for index in range(group.count)
            )
    return contexts


def _host_policy(name: str, settings: EngineSettings) -> HostPolicy:
    said = settings.host_policy.get(name, {})
    return HostPolicy(name=name, numa_node=said.get("numa-node", ""), cpu_cores=said.get("cpu-cores", ""))


def _default_policy(kind: InstanceKind, device_id: int) -> str:
    return f"gpu_{device_id}" if kind == "GPU" else kind.lower()


def backend_settings(backend: str, settings: EngineSettings) -> dict[str, str]:
    """What `--backend-config` says to one backend: its own settings over the global ones."""
    return {
        "default-max-batch-size": DEFAULT_MAX_BATCH_SIZE,
        "auto-complete-config": "false" if settings.disable_auto_complete_config else "true",
        "debug-model": settings.debug_model,
        **({"backend-directory": settings.backend_directory} if settings.backend_directory else {}),
        **settings.backend_config.get("", {}),
        **settings.backend_config.get(backend, {}),
    }


def _listing(path: Path) -> ModelListing:
    directories = sorted(
        (entry for entry in path.iterdir() if entry.is_dir()), key=lambda entry: os.fsencode(entry.name)
    )
    first = list(directories[0].iterdir()) if directories else []
    return ModelListing(
        subdirectories=tuple(entry.name for entry in directories),
        first_files=frozenset(entry.name for entry in first if entry.is_file()),
        first_directories=frozenset(entry.name for entry in first if entry.is_dir()),
    )


def check_before_opening(config: ModelConfig, *paths: Path) -> None:
    """Raises InvalidArgument, Unsupported for what no backend may see: file names that leave the model's directory, and
    features that this engine lacks. `paths` are the directories of the version and the model."""
    validate_file_names(config)
    validate_states(config)
    refuse_unbuilt(config)
    if config.dynamic_batching is not None:
        for path in paths:
            if (path / BATCH_STRATEGY).is_file():
                raise Unsupported(
                    f"model '{config.name}': '{path / BATCH_STRATEGY}' is not supported yet; a policy in Python is "
                    "named by the parameter DESPINA_BATCH_POLICY"
                )


def refuse_unbuilt(config: ModelConfig) -> None:
    """Raises Unsupported for features of the configuration that this engine lacks: they are never ignored."""
    for what, present in (
        (
            "TRITON_BATCH_STRATEGY_PATH",
            "TRITON_BATCH_STRATEGY_PATH" in config.parameters and config.dynamic_batching is not None,
        ),
    ):
        if present:
            raise Unsupported(f"model '{config.name}': '{what}' is not supported yet")
