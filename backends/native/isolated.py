"""One opened version of a library's model whose instances run in processes of their own: `native_isolation`.

They are the processes that models in Python have (../python/isolated), and what is said of those holds for these.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from ...native.loading import built_folder
from ...native.messages import LOGGER
from ...native.pages import drop_page, put_page
from ...native.servers import ask_server
from ...schema.config_json import config_to_json
from ...schema.model_config import config_from_json
from ..python.completion import is_decoupled, is_iterative
from ..python.isolated.instance import IsolatedInstance
from ..python.isolated.limits import Limits
from ..python.isolated.model import completed_by
from ..python.isolated.setup import Setup
from .faults import fault_of

if TYPE_CHECKING:
    from pathlib import Path

    from ...engine.port.backend import InstanceContext, ModelContext
    from ...engine.port.nested import NestedCaller
    from ...schema.wire.generated.inference import ModelConfig


class IsolatedLibraryModel:
    """See port/backend.py: BackendModel."""

    asynchronous = True

    def __init__(self, backend: str, path: Path, context: ModelContext) -> None:
        """The library initializes a first model in a short-lived process, which completes the configuration."""
        self._context = context
        self._limits = Limits.of(context)
        self._library: dict[str, Any] = {
            "path": str(path),
            "built": str(built_folder()),
            "backend": backend,
            "model_path": str(context.model_path),
            "version_path": str(context.version_path),
            "auto_complete": context.auto_complete,
            "backend_config": dict(context.backend_config),
        }
        self.config: ModelConfig = context.config
        completed, self.preferred_kind = completed_by(self._setup("", self._library), self._limits, None)
        self.config = config_from_json(completed)

    def open_instance(self, instance: InstanceContext) -> IsolatedInstance:
        told = {
            "instance_kind": instance.kind,
            "device_id": instance.device_id,
            "host_policy": attrs.asdict(instance.host_policy),
        }
        setup = self._setup(instance.name, {**self._library, **told})
        return IsolatedInstance(
            setup, self._limits, self._context.nested, policy=instance.host_policy, host=_Host(self._context.nested)
        )

    def close(self) -> None:
        """Instances own everything."""

    def _setup(self, instance_name: str, library: dict[str, Any]) -> Setup:
        return Setup(
            name=self._context.name,
            version=self._context.version,
            library=library,
            instance_name=instance_name,
            config=config_to_json(self.config).decode(),
            output_names=[output.name for output in self.config.output],
            decoupled=is_decoupled(self.config),
            iterative=is_iterative(self.config),
            may_ask=self._context.nested is not None,
            memory_bytes_max=self._limits.memory_bytes,
            log_level=logging.getLogger(LOGGER).getEffectiveLevel(),
        )


@attrs.frozen
class _Host:
    """See LibraryHost."""

    engine: NestedCaller | None

    def ask(self, operation: str, arguments: bytes) -> bytes:
        code, text = ask_server(self.engine, operation, arguments)
        if code >= 0:
            raise fault_of(code, text.decode())
        return text

    def show(self, process: object, page: str) -> None:
        put_page(process, page)

    def hide(self, process: object) -> None:
        drop_page(process)
