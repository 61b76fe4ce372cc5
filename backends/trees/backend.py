"""The backend of trees and classics: opens a model, asks it once what it answers, fits the configuration to that."""

from __future__ import annotations

import importlib.metadata
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ...schema.fault import Fault, Internal, InvalidArgument
from ..fitting import default_max_batch_size
from .configuration import CONTRIBUTIONS, Shape, check, complete, labels_are_text
from .files import open_file
from .instance import TreesInstance
from .options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...engine.port.backend import InstanceContext, InstanceKind, ModelContext
    from .predictor import Predictor

_log = logging.getLogger("despina.backends.trees")


class TreesBackend:
    name = "trees"
    preferred_kind: InstanceKind | None = "CPU"
    settings: Mapping[str, str] = MappingProxyType({"allow-pickle": ""})

    def open_model(self, context: ModelContext) -> TreesModel:
        allowed = context.backend_config.get("allow-pickle", "true").lower()
        if allowed not in ("true", "false"):
            raise InvalidArgument(f"backend setting allow-pickle must be 'true' or 'false', got '{allowed}'")
        return TreesModel(context, why_no_pickles="" if allowed == "true" else "the setting allow-pickle is false")

    def config_summary(self) -> str:
        """Imports no framework: the table is printed before any model needs one."""
        found = []
        for names in (("xgboost-cpu", "xgboost"), ("lightgbm",), ("scikit-learn",), ("treelite",)):
            for name in names:
                try:
                    found.append(f"{name} {importlib.metadata.version(name)}")
                    break
                except importlib.metadata.PackageNotFoundError:
                    continue
        return ", ".join(found) or "no library of trees is installed (pip install 'despina[trees]')"


class FilBackend(TreesBackend):
    """The name that Triton has for it. It opens no pickle, as there."""

    name = "fil"
    settings: Mapping[str, str] = MappingProxyType({})

    def open_model(self, context: ModelContext) -> TreesModel:
        return TreesModel(context, why_no_pickles="the backend 'fil' opens none, 'trees' does")


class TreesModel:
    """One opened version; its instances share it."""

    def __init__(self, context: ModelContext, *, why_no_pickles: str) -> None:
        config = context.config
        self._options = options = Options.of(config)
        self._predictor: Predictor | None = open_file(context, options, why_no_pickles)
        has_contributions = any(item.name == CONTRIBUTIONS for item in config.output)
        self._shape = _shape(config.name, self._predictor, options, explain=has_contributions)
        if context.auto_complete:
            config = complete(config, self._shape, default_max_batch_size(context))
        check(config, self._shape)
        self.config = config

    def open_instance(self, instance: InstanceContext) -> TreesInstance:
        assert self._predictor is not None
        if instance.kind == "GPU":
            _log.warning("model instance '%s': computed on the CPU, there is no forest for GPUs here", instance.name)
        return TreesInstance(instance.name, self.config, self._predictor, self._shape, self._options)

    def close(self) -> None:
        self._predictor = None


def _shape(name: str, predictor: Predictor, options: Options, *, explain: bool) -> Shape:
    """Asks with one row of zeros, since no two libraries say what they answer in the same way."""
    wanted = options.wanted or ("class" if predictor.is_classifier else "value")
    if wanted == "probabilities" and not predictor.is_classifier:
        raise InvalidArgument(f"unable to load model '{name}': it is no classifier, so it has no predict_proba")
    columns = 1 if wanted == "class" else -1
    contributions = None
    try:
        if predictor.features is not None:
            row = np.zeros((1, predictor.features), np.float32)
            if wanted == "class":
                predictor.classes(row, options.threshold)
            else:
                columns = predictor.scores(row).shape[1]
            if explain and predictor.explains:
                contributions = predictor.contributions(row).shape[1:]
    except InvalidArgument as fault:
        raise InvalidArgument(f"unable to load model '{name}': {fault.message}") from None
    except Fault:
        raise
    except Exception as error:
        raise Internal(f"model '{name}' does not answer a row of zeros: {type(error).__name__}: {error}") from error
    is_binary = columns in (1, 2)
    if wanted == "probabilities" and is_binary:
        columns = 2
    return Shape(
        features=predictor.features,
        wanted=wanted,
        columns=columns,
        is_binary=is_binary,
        has_text_labels=labels_are_text(predictor.labels),
        contributions=contributions,
    )
