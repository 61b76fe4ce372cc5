"""What there is to check with: a GPU, and packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys


class Skipped(Exception):
    """A check that cannot run here; its text says why."""


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def need(*packages: str) -> None:
    """Raises Skipped, which names the first that is not installed."""
    for package in packages:
        if not has(package):
            raise Skipped(f"{package} is not installed")


def why_not() -> str:
    """Why there is nothing to check here; empty if there is."""
    for package in ("cupy", "tritonclient", "despina"):
        if not has(package):
            return f"{package} is not installed"
    try:
        count = importlib.import_module("cupy").cuda.runtime.getDeviceCount()
    except Exception as error:
        return f"no GPU: {type(error).__name__}"
    return "" if count else "no GPU"


def about() -> str:
    runtime = importlib.import_module("cupy").cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    packages = [f"{package} {version(package)}" for package in PACKAGES if version(package)]
    return f"{name}, CUDA driver {runtime.driverGetVersion()}, Python {sys.version.split()[0]}, {', '.join(packages)}"


PACKAGES = ("numpy", "tritonclient", "torch", "onnxruntime-gpu", "onnxruntime", "tensorrt")


def version(package: str) -> str:
    """Of an installed distribution; empty for one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def free_bytes() -> int:
    """Memory of the device that nobody has."""
    free: int = importlib.import_module("cupy").cuda.runtime.memGetInfo()[0]
    return free
