"""Serves ONNX files through ONNX Runtime, on CPUs and NVIDIA GPUs."""

from .backend import OnnxRuntimeBackend

__all__ = ["OnnxRuntimeBackend"]
