"""The TensorFlow backend: reads model files, completes and checks configurations, makes instances."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...schema.fault import Internal, Unavailable
from ..fitting import default_max_batch_size
from .configuration import check, complete
from .failure import failure_text
from .files import open_files
from .instance import TensorFlowInstance
from .options import Options
from .sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext

_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu", "tf-nightly")


class TensorFlowBackend:
    name = "tensorflow"
    preferred_kind: InstanceKind | None = None
    settings: Mapping[str, str] = MappingProxyType(
        {
            "allow-soft-placement": "",
            "gpu-memory-fraction": "",
            "version": "the version is that of the installed package",
        }
    )

    def open_model(self, context: ModelContext) -> TensorFlowModel:
        # Its C++ part reads this once, when it is imported.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import tensorflow
        except ImportError as error:
            raise Unavailable(
                f"unable to load model '{context.name}': tensorflow cannot be imported ({error}); "
                "to get it: pip install 'despina[tensorflow]'"
            ) from error
        logger = logging.getLogger("tensorflow")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)  # else every load tells that its interfaces are old
        return TensorFlowModel(tensorflow, context)

    def config_summary(self) -> str:
        """Does not import the framework: the table is printed before any model needs it."""
        for distribution in _DISTRIBUTIONS:
            try:
                return f"{distribution} {importlib.metadata.version(distribution)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return "tensorflow is not installed (pip install 'despina[tensorflow]')"


class TensorFlowModel:
    """One opened version. Each instance has a session, or shares one where the configuration lets it."""

    def __init__(self, tf: Any, context: ModelContext) -> None:
        config = context.config
        options = Options.of(config, context.backend_config)
        opened = open_files(tf, context, options)
        if context.auto_complete:
            config = complete(config, opened.signature, default_max_batch_size(context))
        check(config, opened.signature)
        self.config = config
        self._signature = opened.signature
        self._sessions = Sessions(tf, context.name, opened, options)

    def open_instance(self, instance: InstanceContext) -> TensorFlowInstance:
        session = self._sessions.take(instance)
        try:
            return TensorFlowInstance(
                instance.name,
                session,
                self.config,
                self._signature,
                movable=instance.kind == "CPU",
                give_back=self._sessions.give_back,
            )
        except Exception as error:
            self._sessions.give_back(session)
            raise Internal(f"failed to load model '{self.config.name}': {failure_text(error)}") from error

    def close(self) -> None:
        """Nothing: the last instance has closed the last session."""
