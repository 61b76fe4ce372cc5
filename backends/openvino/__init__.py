"""Serves what OpenVINO reads itself: its IR files, ONNX, TensorFlow and others that its frontends know."""

from .backend import OpenVINOBackend

__all__ = ["OpenVINOBackend"]
