"""Models of libraries for trees, computed by the libraries themselves: XGBoost, LightGBM, Treelite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ...schema.fault import InvalidArgument
from .predictor import Predictor, as_columns, as_floats

if TYPE_CHECKING:
    from pathlib import Path

_PROBABLE = frozenset({"binary:logistic", "reg:logistic", "multi:softprob"})
_PROBABLE_LIGHTGBM = frozenset({"binary", "multiclass", "multiclassova", "cross_entropy"})


class XGBoostPredictor(Predictor):
    """A file of XGBoost, JSON or UBJSON. XGBoost itself finds out which."""

    explains = True

    def __init__(self, path: Path, threads: int) -> None:
        import xgboost

        self._xgboost = xgboost
        self._booster: Any = xgboost.Booster()
        self._booster.load_model(bytearray(path.read_bytes()))
        self._booster.set_param({"nthread": threads})
        learner = json.loads(self._booster.save_config())["learner"]
        objective = learner["objective"]["name"]
        if objective == "multi:softmax":  # it answers with classes only, and is trained the same way
            objective = "multi:softprob"
            self._booster.set_param({"objective": objective})
        self._is_linear = learner["gradient_booster"]["name"] == "gblinear"
        self._threads = threads
        self.features: int | None = self._booster.num_features()
        self.is_classifier = objective in _PROBABLE

    def scores(self, rows: np.ndarray) -> np.ndarray:
        if self._is_linear:  # has no prediction in place
            return as_columns(self._booster.predict(self._matrix(rows)))
        return as_columns(self._booster.inplace_predict(as_floats(rows)))

    def contributions(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._booster.predict(self._matrix(rows), pred_contribs=True)
        return found

    def _matrix(self, rows: np.ndarray) -> Any:
        names, types = self._booster.feature_names, self._booster.feature_types
        return self._xgboost.DMatrix(
            as_floats(rows), feature_names=names, feature_types=types, nthread=self._threads, enable_categorical=True
        )


class LightGBMPredictor(Predictor):
    """LightGBM's text file."""

    explains = True

    def __init__(self, path: Path, threads: int) -> None:
        import lightgbm

        self._booster: Any = lightgbm.Booster(model_file=str(path))
        self._threads = threads
        self.features: int | None = self._booster.num_feature()
        self.is_classifier = _lightgbm_objective(path) in _PROBABLE_LIGHTGBM

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return as_columns(self._booster.predict(as_floats(rows), num_threads=self._threads))

    def contributions(self, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._booster.predict(as_floats(rows), num_threads=self._threads, pred_contrib=True)
        classes = self._booster.num_model_per_iteration()
        return found if classes == 1 else found.reshape(len(rows), classes, -1)


def _lightgbm_objective(path: Path) -> str:
    """Of the file's head, `objective=binary sigmoid:1`; older files have no parameters that would say it."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("objective="):
                words = line.removeprefix("objective=").split()
                return words[0] if words else ""
            if line.startswith("Tree="):
                break
    return ""


class TreelitePredictor(Predictor):
    """A checkpoint of Treelite, into which forests of many libraries can be written."""

    def __init__(self, path: Path, threads: int) -> None:
        import treelite

        self._gtil: Any = treelite.gtil
        self._model: Any = treelite.Model.deserialize(str(path))
        self._threads = threads or -1
        head = self._model.get_header_accessor()
        if int(head.get_field("num_target")[0]) != 1:
            raise InvalidArgument("forests with several targets are not supported")
        self.features: int | None = self._model.num_feature
        self.is_classifier = int(head.get_field("task_type")[0]) in (0, 2)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows, np.float64 if self._model.input_type == "float64" else np.float32)
        return as_columns(self._gtil.predict(self._model, rows, nthread=self._threads))
