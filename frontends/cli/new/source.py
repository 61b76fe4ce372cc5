"""What a new model is made from: a file or directory of a framework's, or Python."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import attrs
import click

if TYPE_CHECKING:
    from pathlib import Path

PYTHON: Final = "python"


@attrs.frozen
class Kind:
    """How a framework's models are kept."""

    backend: str
    platform: str
    filename: str


_BY_SUFFIX: Final = {
    ".onnx": Kind("onnxruntime", "onnxruntime_onnx", "model.onnx"),
    ".pt": Kind("pytorch", "pytorch_libtorch", "model.pt"),
    ".pt2": Kind("pytorch", "torch_aoti", "model.pt2"),
    ".graphdef": Kind("tensorflow", "tensorflow_graphdef", "model.graphdef"),
    ".plan": Kind("tensorrt", "tensorrt_plan", "model.plan"),
    ".xml": Kind("openvino", "", "model.xml"),
    ".py": Kind("python", "", "model.py"),
}
_SAVED_MODEL: Final = Kind("tensorflow", "tensorflow_savedmodel", "model.savedmodel")


def kind_of(path: Path) -> Kind:
    """Raises click.ClickException for what is not there, and for what is no model that can be told by its name."""
    if not path.exists():
        raise click.ClickException(f"--from {path}: no such file or directory; or say `--from python`")
    if path.is_dir():
        if (path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file():
            return _SAVED_MODEL
        raise click.ClickException(f"--from {path}: a directory without saved_model.pb is no SavedModel")
    kind = _BY_SUFFIX.get(path.suffix)
    if kind is None:
        known = ", ".join(_BY_SUFFIX)
        raise click.ClickException(f"--from {path}: known are files named {known}, and directories of SavedModels")
    return kind


def copy(path: Path, kind: Kind, version: Path) -> None:
    """Copies the model into the directory of a version, with the files that belong to it."""
    target = version / kind.filename
    if path.is_dir():
        shutil.copytree(path, target)
        return
    shutil.copyfile(path, target)
    for beside in path.parent.glob(f"{path.name}*data"):  # weights of an ONNX model, which names this file
        shutil.copyfile(beside, version / beside.name)
    weights = path.with_suffix(".bin")
    if kind.backend == "openvino" and weights.is_file():
        shutil.copyfile(weights, version / "model.bin")
