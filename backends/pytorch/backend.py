"""The PyTorch backend: opens files, checks that the configuration fits, makes instances."""

from __future__ import annotations

import importlib.metadata
import logging
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...schema.config.sequence_tensors import added_inputs, state_inputs, state_outputs
from ...schema.datatype import BY_NUMBER
from ...schema.fault import InvalidArgument, Unavailable
from .draft import draft
from .files import open_file
from .instance import PyTorchInstance
from .naming import arguments_of, index_of, results_of
from .options import Options, apply_to_process
from .tensors import UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...engine.port.backend import Draft, InstanceContext, InstanceKind, ModelContext
    from ...schema.wire.generated.inference import ModelConfig
    from .files import Opened
    from .naming import Arguments

_log = logging.getLogger("despina.backends.pytorch")


class PyTorchBackend:
    name = "pytorch"
    preferred_kind: InstanceKind | None = None
    settings: Mapping[str, str] = MappingProxyType({})

    def open_model(self, context: ModelContext) -> PyTorchModel:
        return PyTorchModel(_torch(f"unable to load model '{context.name}'"), context)

    def draft(self, file: Path) -> Draft:
        """Raises Unavailable without PyTorch, InvalidArgument for a file that is none of its own."""
        return draft(_torch(f"unable to read {file}"), file)

    def config_summary(self) -> str:
        """Does not import the framework: the table is printed before any model needs it."""
        try:
            return f"torch {importlib.metadata.version('torch')}"
        except importlib.metadata.PackageNotFoundError:
            return "torch is not installed (pip install 'despina[torch]')"


def _torch(what: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise Unavailable(
            f"{what}: torch cannot be imported ({error}); to get it: pip install 'despina[torch]'"
        ) from error
    return torch


class PyTorchModel:
    """One opened version. PyTorch's files do not say what shapes they take: the configuration must."""

    def __init__(self, torch: Any, context: ModelContext) -> None:
        self._torch = torch
        self._context = context
        self._lock = threading.Lock()  # instances may open at the same time
        self._shared: dict[str, Opened] = {}
        """With weight sharing: by device."""
        self.config = config = context.config
        _check(config)
        self._options = Options.of(config)
        apply_to_process(torch, config)
        self._first: Opened | None = open_file(torch, context, config, self._options, torch.device("cpu"))
        """Until an instance takes it."""
        self._arguments = _arguments(config, self._first)
        self._results = results_of([*(item.name for item in config.output), *_only_states(config)])

    def open_instance(self, instance: InstanceContext) -> PyTorchInstance:
        torch = self._torch
        device = torch.device(f"cuda:{instance.device_id}" if instance.kind == "GPU" else "cpu")
        return PyTorchInstance(
            instance.name,
            torch,
            self.config,
            self._opened(device),
            self._arguments,
            self._results,
            self._options,
            device,
        )

    def close(self) -> None:
        self._shared.clear()
        self._first = None

    def _opened(self, device: Any) -> Opened:
        with self._lock:
            shared = self._shared.get(str(device))
            if shared is not None:
                return shared
            first, self._first = self._first, None
            if first is None or device.type != "cpu":
                first = open_file(self._torch, self._context, self.config, self._options, device)
            if self._options.shares_weights:
                self._shared[str(device)] = first
            return first


def _check(config: ModelConfig) -> None:
    """Raises InvalidArgument for what no PyTorch model can have."""
    if not config.input or not config.output:
        raise InvalidArgument(
            f"unable to load model '{config.name}': a PyTorch file does not say what its inputs and outputs are, its "
            "configuration must"
        )
    for role, items in (("input", config.input), ("output", config.output)):
        for item in items:
            kind = BY_NUMBER[int(item.data_type)]
            if kind.name in UNSUPPORTED:
                raise InvalidArgument(
                    f"unsupported datatype {kind.config_name} for {role} '{item.name}' for model '{config.name}'"
                )
            if kind.name == "BYTES" and len(item.dims) > 1:
                raise InvalidArgument(
                    f"Triton only supports 1 dimensional List of String as {role} for '{item.name}' for model "
                    f"'{config.name}'"
                )
    if config.sequence_batching is None:
        return
    if config.sequence_batching.state:
        named = [item.name for item in (*config.input, *state_inputs(config))]
        named += [item.name for item in (*config.output, *state_outputs(config))]
        if not all(index_of(name) is not None for name in named):
            raise InvalidArgument(
                f"PyTorch model '{config.name}' is using sequence batching with state but not all inputs and outputs "
                "follow the <name>__<index> naming convention. "
            )
    for added in added_inputs(config):
        if index_of(added.name) is None:
            raise InvalidArgument(f"input '{added.name}' does not follow <name>__<index> naming convention.")


def _arguments(config: ModelConfig, opened: Opened) -> Arguments:
    names = [item.name for item in (*config.input, *added_inputs(config))]
    for made in config.batch_input:
        names.extend(made.target_name)
    arguments = arguments_of(names, opened.argument_names, takes_dictionary=opened.takes_dictionary)
    if arguments.is_by_order and len(names) > 1:
        _log.warning(
            "model '%s': inputs are neither named as arguments of forward (%s) nor <name>__<index>: they are passed in "
            "the configuration's order",
            config.name,
            ", ".join(opened.argument_names) or "unknown",
        )
    return arguments


def _only_states(config: ModelConfig) -> list[str]:
    outputs = {item.name for item in config.output}
    return [item.name for item in state_outputs(config) if item.name not in outputs]
