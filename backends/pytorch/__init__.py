"""Serves PyTorch models: TorchScript files, exported programs, and modules from a `model.py`."""

from .backend import PyTorchBackend

__all__ = ["PyTorchBackend"]
