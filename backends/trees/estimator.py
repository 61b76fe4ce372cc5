"""Models of scikit-learn, and whatever else has its `predict`: estimators, pipelines of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ...schema.fault import InvalidArgument
from .predictor import Predictor, as_columns, most_likely

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

_log = logging.getLogger("despina.backends.trees")


class EstimatorPredictor(Predictor):
    """Classes are the estimator's own choice, and called as it calls them."""

    def __init__(self, estimator: Any, threads: int) -> None:
        from sklearn.base import is_classifier

        if not callable(getattr(estimator, "predict", None)):
            raise InvalidArgument(f"the file holds a {type(estimator).__name__}, which has no 'predict'")
        labels = estimator.classes_ if is_classifier(estimator) else None
        if isinstance(labels, list):
            raise InvalidArgument("classifiers with several targets are not supported")
        settings = [name for name in estimator.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
        estimator.set_params(**dict.fromkeys(settings, threads or -1))
        self._estimator = estimator
        self.features: int | None = getattr(estimator, "n_features_in_", None)
        self.is_classifier: bool = is_classifier(estimator)
        self.labels: np.ndarray | None = labels

    def scores(self, rows: np.ndarray) -> np.ndarray:
        estimator = self._estimator
        if not self.is_classifier:
            return as_columns(estimator.predict(rows))
        if not hasattr(estimator, "predict_proba"):
            raise InvalidArgument(f"a {type(estimator).__name__} has no probabilities")
        return as_columns(estimator.predict_proba(rows))

    def classes(self, rows: np.ndarray, threshold: float | None) -> np.ndarray:
        found: np.ndarray
        if threshold is None or self.labels is None:
            found = self._estimator.predict(rows)
        else:
            found = self.labels[most_likely(self.scores(rows), threshold)]
        return found


def read_skops(path: Path, trusted: Sequence[str]) -> Any:
    """Of a skops file, which makes only what is trusted. Raises InvalidArgument for types that are not."""
    import skops.io

    strange = sorted({*skops.io.get_untrusted_types(file=path)} - {*trusted})
    if strange:
        raise InvalidArgument(
            f"'{path.name}' would make objects of types that are not trusted: {', '.join(strange)}. Name those "
            "that you trust in the parameter trusted_types"
        )
    return skops.io.load(path, trusted=list(trusted))


def read_pickle(path: Path) -> Any:
    """Of joblib's file or a plain pickle. It runs what the file says."""
    import joblib

    _log.info("'%s' is a pickle: what it says is run, as a model.py is", path)
    return joblib.load(path)
