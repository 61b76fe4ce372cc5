"""Serves TensorFlow models: SavedModel folders of TensorFlow 1 and 2, and GraphDef files."""

from .backend import TensorFlowBackend

__all__ = ["TensorFlowBackend"]
