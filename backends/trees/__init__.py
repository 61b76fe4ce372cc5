"""Serves trees and classics: XGBoost, LightGBM, scikit-learn and Treelite models, as Triton's FIL too."""

from .backend import FilBackend, TreesBackend

__all__ = ["FilBackend", "TreesBackend"]
