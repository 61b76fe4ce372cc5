"""What every opened model is here: rows of features in, a row of numbers for each out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Predictor(ABC):
    """Shared by the instances of a model: any thread may call it, several at once. Answers are the caller's own."""

    features: int | None
    """Columns of its rows; None where the model does not know."""
    is_classifier: bool
    """Its scores are probabilities of classes; of two, a column for the second may be all."""
    labels: np.ndarray | None = None
    """What its classes are called, where that is not 0, 1, ..."""
    explains: bool = False
    """It has `contributions`."""

    @abstractmethod
    def scores(self, rows: np.ndarray) -> np.ndarray:
        """[rows, columns]: probabilities of a classifier, values of others."""

    def classes(self, rows: np.ndarray, threshold: float | None) -> np.ndarray:
        """[rows]: each row's class, as a label or an index."""
        return most_likely(self.scores(rows), threshold)

    def contributions(self, rows: np.ndarray) -> np.ndarray:
        """What each feature adds to the margin, and in the last column what is there before any does:
        [rows, features + 1], or [rows, classes, features + 1]."""
        raise NotImplementedError


def most_likely(scores: np.ndarray, threshold: float | None) -> np.ndarray:
    """[rows] indexes of classes, of scores that have a column for each class, or one for the second of two."""
    is_alone = scores.shape[1] == 1
    found: np.ndarray
    if is_alone or (scores.shape[1] == 2 and threshold is not None):
        found = (scores[:, 0 if is_alone else 1] > (0.5 if threshold is None else threshold)).astype(np.int64)
    else:
        found = scores.argmax(axis=1)
    return found


def as_columns(values: np.ndarray) -> np.ndarray:
    """[rows, columns]: frameworks drop a lone column."""
    return values.reshape(len(values), -1)


def as_floats(rows: np.ndarray) -> np.ndarray:
    """What every library of trees takes."""
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
