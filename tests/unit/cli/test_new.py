"""`despina new`: models that are written serve as they are; the tests that come with them pass."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import openvino
import pytest
import torch
from despina import blocking
from despina.schema.model_config import parse_config

from tests.unit.cli.child import WAIT_S, ask
from tests.unit.cli.test_check import add_onnx


def infer(folder, name, **inputs):
    """One request to an engine that has the model."""
    with blocking.open_engine(str(folder), model_control_mode="explicit", load_model=[name]) as engine:
        return engine.infer(name, inputs, timeout=WAIT_S)


def new(folder, name, source):
    """The configuration that was written, which the check finds sound."""
    done = ask("new", name, "--from", str(source), "--repository", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {folder}/{name}/config.pbtxt\n" in done.stdout
    checked = ask("check", str(folder), "--model", name)
    assert (checked.returncode, checked.stdout) == (0, "1 model, no faults\n"), checked.stdout + checked.stderr
    text = (folder / name / "config.pbtxt").read_text()
    assert max(map(len, text.splitlines())) <= 88
    return parse_config(text), text


def test_python(tmp_path):
    """Goal: a model.py that answers, with a test that passes as it is, and fails once the model is another."""
    config, text = new(tmp_path, "mine", "python")
    assert config.backend == "python"
    assert text.count("# ") >= 10
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=2 * WAIT_S)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["1", "config.pbtxt", "test_model.py"]
    model = tmp_path / "mine" / "1" / "model.py"
    model.write_text(model.read_text().replace("np.float32(2)", "np.float32(3)"))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=2 * WAIT_S)
    assert done.returncode == 1


def test_what_is_commented_out_holds(tmp_path):
    """Goal: who takes the comment signs away from what is offered has a configuration that serves."""
    _, text = new(tmp_path, "mine", "python")
    offered = text[text.index("# response_cache") :].replace("# zeros are", "#zeros are").replace("# ", "")
    (tmp_path / "mine" / "config.pbtxt").write_text(text[: text.index("# response_cache")] + offered)
    config = parse_config((tmp_path / "mine" / "config.pbtxt").read_text())
    assert config.response_cache.enable
    assert len(config.model_warmup) == 1
    rows = infer(tmp_path, "mine", INPUT=np.array([[1, 2]], np.float32))["OUTPUT"]
    assert rows.tolist() == [[2, 4]]


def test_onnx(tmp_path):
    """Goal: names, types, shapes and the batch come from the file."""
    add_onnx(tmp_path / "given", "double")
    config, _ = new(tmp_path, "twice", tmp_path / "given" / "double" / "1" / "model.onnx")
    assert (config.backend, config.platform, config.max_batch_size) == ("onnxruntime", "onnxruntime_onnx", 4)
    assert [(tensor.name, tensor.dims) for tensor in (*config.input, *config.output)] == [("X", [4]), ("Y", [4])]
    assert config.dynamic_batching is not None
    assert infer(tmp_path, "twice", X=np.ones((1, 4), np.float32))["Y"].tolist() == [[2, 2, 2, 2]]


class Scaled(torch.nn.Module):
    def forward(self, x, factor):
        return x * factor, x + factor


def test_torchscript(tmp_path):
    """Goal: names of arguments and the number of results; what the file does not keep is said to be a guess."""
    torch.jit.script(Scaled()).save(str(tmp_path / "scaled.pt"))
    config, text = new(tmp_path, "scaled", tmp_path / "scaled.pt")
    assert [tensor.name for tensor in config.input] == ["x", "factor"]
    assert [tensor.name for tensor in config.output] == ["OUTPUT__0", "OUTPUT__1"]
    assert "# CHECK THIS: TorchScript does not keep datatypes and shapes" in text
    two = np.array([2], np.float32)
    result = infer(tmp_path, "scaled", x=two, factor=two + 1)
    assert (result["OUTPUT__0"].tolist(), result["OUTPUT__1"].tolist()) == ([6], [5])


def test_exported_program(tmp_path):
    """Goal: types and shapes are the program's, and its dynamic first dimension is the batch."""
    example = (torch.ones(2, 3), torch.ones(2, 3))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Scaled(), example, dynamic_shapes={"x": {0: batch}, "factor": {0: batch}})
    torch.export.save(program, str(tmp_path / "scaled.pt2"))
    config, text = new(tmp_path, "scaled", tmp_path / "scaled.pt2")
    assert config.max_batch_size == 4
    assert [tensor.dims for tensor in (*config.input, *config.output)] == [[3]] * 4
    assert "CHECK THIS" not in text
    row = np.array([[1, 2, 3]], np.float32)
    assert infer(tmp_path, "scaled", x=row, factor=row)["OUTPUT__1"].tolist() == [[2, 4, 6]]


def test_openvino(tmp_path):
    """Goal: the weights beside the file come along."""
    parameter = openvino.op.Parameter(openvino.Type.f32, openvino.PartialShape([-1, 2]))
    parameter.set_friendly_name("X")
    parameter.output(0).get_tensor().set_names({"X"})
    added = openvino.opset13.add(parameter, openvino.op.Constant(np.ones((1, 2), np.float32)))
    added.output(0).get_tensor().set_names({"Y"})
    openvino.save_model(openvino.Model([added], [parameter]), tmp_path / "plus.xml")
    config, _ = new(tmp_path, "plus", tmp_path / "plus.xml")
    assert config.backend == "openvino"
    assert infer(tmp_path, "plus", X=np.zeros((1, 2), np.float32))["Y"].tolist() == [[1, 1]]


@pytest.mark.slow
def test_saved_model(tmp_path):
    """Goal: the directory is copied whole. Method: a process of its own, which alone has TensorFlow."""
    program = f"""
from despina.frontends.cli.verbs import run_verb
from tests.unit.backends.tensorflow_models import trained

trained({str(tmp_path / "saved")!r})
assert run_verb(["new", "line", "--from", {str(tmp_path / "saved")!r}, "--repository", {str(tmp_path)!r}]) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=4 * WAIT_S)
    assert done.returncode == 0, done.stderr
    config = parse_config((tmp_path / "line" / "config.pbtxt").read_text())
    assert (config.backend, config.platform) == ("tensorflow", "tensorflow_savedmodel")
    assert [(tensor.name, tensor.dims) for tensor in (*config.input, *config.output)] == [("x", [2]), ("y", [1])]
    assert (tmp_path / "line" / "1" / "model.savedmodel" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("a", "gone.onnx", "--from gone.onnx: no such file or directory; or say `--from python`"),
        ("a", "notes.txt", "--from notes.txt: known are files named .onnx, .pt, .pt2, "),
        ("a", "empty", "--from empty: a directory without saved_model.pb is no SavedModel"),
        ("a", "damaged.onnx", "model.onnx"),
        ("a", "damaged.pt", "is not TorchScript (torch.jit.save): "),
        ("a/b", "python", "'a/b' cannot be a model's name: it is that of a directory"),
        ("there", "python", "there is there already; another name, or remove it first"),
    ],
)
def test_what_cannot_be(tmp_path, monkeypatch, name, source, complaint):
    """Goal: each mistake is named, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    for file in ("notes.txt", "damaged.onnx", "damaged.pt"):
        (tmp_path / file).write_text("no model")
    for folder in ("empty", "there"):
        (tmp_path / folder).mkdir()
    before = sorted(tmp_path.iterdir())
    done = ask("new", name, "--from", source)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert sorted(tmp_path.iterdir()) == before
