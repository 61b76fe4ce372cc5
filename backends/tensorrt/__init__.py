"""Serves TensorRT plan files on NVIDIA GPUs."""

from .backend import TensorRTBackend

__all__ = ["TensorRTBackend"]
