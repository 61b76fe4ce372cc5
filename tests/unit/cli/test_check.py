"""`despina check`: faults of real repositories, all at once, with their places and what mends them."""

from __future__ import annotations

import logging

import boto3
import numpy as np
import onnx
import orjson
import pytest
from despina.frontends.cli.check.place import place_of
from moto.server import ThreadedMotoServer
from onnx import TensorProto, helper

from tests.unit.cli.child import CONFIG, MODEL, Serving, add_model, ask


def add_onnx(folder, name, config=""):
    """A model that doubles `X`, a row of floats."""
    (folder / name / "1").mkdir(parents=True)
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], np.array([2], np.float32).tobytes(), raw=True)
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [None, 4]) for end in ("X", "Y")]
    graph = helper.make_graph([helper.make_node("Mul", ["X", "two"], ["Y"])], "double", ends[:1], ends[1:], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / name / "1" / "model.onnx")
    if config:
        (folder / name / "config.pbtxt").write_text(config)


GOOD = 'backend: "onnxruntime"\nmax_batch_size: 8\n'


def found(folder, *options):
    """What the check says, by model, as (place below the repository, message, fix)."""
    done = ask("check", str(folder), "--json", *options)
    report = orjson.loads(done.stdout)
    assert done.returncode == (1 if report["faults"] else 0)
    by_model = {}
    for item in report["findings"]:
        place = item["file"].removeprefix(f"{folder}/")
        place = f"{place}:{item['line']}:{item['column']}" if item["line"] else place
        by_model.setdefault(item["model"], []).append((place, item["message"], item["fix"]))
    return by_model


def test_sound_models(tmp_path):
    """Goal: models of two frameworks, one of which says little, and an ensemble: no fault, exit 0."""
    add_onnx(tmp_path, "double", GOOD)
    add_onnx(tmp_path, "bare", "max_batch_size: 8")
    add_model(tmp_path, "sleeper", MODEL)
    (tmp_path / "twice" / "1").mkdir(parents=True)
    (tmp_path / "twice" / "config.pbtxt").write_text(ENSEMBLE)
    done = ask("check", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 models, no faults\n", "")


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Z" data_type: TYPE_FP32 dims: [ 4 ] } ]
ensemble_scheduling {
  step [
    { model_name: "double" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" } },
    { model_name: "bare" model_version: -1 input_map { key: "X" value: "Y" } output_map { key: "Y" value: "Z" } }
  ]
}
"""


def test_every_fault_of_every_model_at_once(tmp_path):
    """Goal: one run tells all, each at its line and column, with the fix where one is known."""
    add_onnx(tmp_path, "spelled", GOOD + 'max_batchsize: 3\ninput [ { name: "X" dims: "a" } ]\n')
    add_onnx(tmp_path, "meant", GOOD + POLICY)
    add_onnx(tmp_path, "unlike", GOOD + '\ninput [ { name: "X" data_type: TYPE_INT32 dims: [ 4 ] } ]\n')
    add_onnx(tmp_path, "framework", 'backend: "onnxrutnime"\n')
    add_onnx(tmp_path, "elsewhere", 'backend: "vllm"\n')
    add_onnx(tmp_path, "loose", GOOD)
    (tmp_path / "loose" / "1" / "model.onnx").rename(tmp_path / "loose" / "model.onnx")
    (tmp_path / "loose" / "1").rmdir()
    add_onnx(tmp_path, "renamed", GOOD)
    (tmp_path / "renamed" / "1" / "model.onnx").rename(tmp_path / "renamed" / "1" / "net.onnx")
    add_onnx(tmp_path, "damaged", GOOD)
    (tmp_path / "damaged" / "1" / "model.onnx").write_bytes(b"no model")
    add_model(tmp_path, "syntax", "class TritonPythonModel:\n    def execute(self, requests)\n")
    add_model(tmp_path, "raising", "def break_it():\n    raise RuntimeError('it is broken')\n\nbreak_it()")
    for isolation in ("none", "process"):
        add_model(tmp_path, f"weightless_{isolation}", WEIGHTLESS)
        config = tmp_path / f"weightless_{isolation}" / "config.pbtxt"
        config.write_text(config.read_text().replace('"none"', f'"{isolation}"'))
    add_model(tmp_path, "nameless", "class Model:\n    pass\n")
    add_onnx(tmp_path, "labelled", GOOD + LABELLED)
    (tmp_path / "twice" / "1").mkdir(parents=True)
    (tmp_path / "twice" / "config.pbtxt").write_text(
        ENSEMBLE.replace('"bare"', '"labeled"').replace('"double"', '"meant"')
    )
    report = found(tmp_path)
    assert [place for place, _, _ in report["spelled"]] == ["spelled/config.pbtxt:3:1", "spelled/config.pbtxt:4:27"]
    assert "did you mean 'max_batch_size'?" in report["spelled"][0][1]
    assert [(place, message) for place, message, _ in report["meant"]] == [
        ("meant/config.pbtxt:3:1", "dynamic batching preferred size must be <= max batch size for meant"),
        ("meant/config.pbtxt:5:3", "default priority level must be in range [1, 2] for meant"),
    ]
    ((place, message, _),) = report["unlike"]
    assert place == "unlike/config.pbtxt:4:17"
    assert "'X'" in message
    assert report["framework"] == [
        (
            "framework/config.pbtxt:1:10",
            "there is no backend 'onnxrutnime'; did you mean 'onnxruntime'?",
            'backend: "onnxruntime"',
        )
    ]
    assert report["elsewhere"][0][2] == (
        "--backend-directory=FOLDER, with FOLDER/vllm/libtriton_vllm.so or FOLDER/vllm/model.py"
    )
    folder = tmp_path / "loose"
    assert report["loose"] == [
        (
            "loose",
            "there is no version: no directory whose name is a number",
            f"mkdir {folder}/1 && mv {folder}/model.onnx {folder}/1/",
        )
    ]
    assert report["renamed"][0][:2] == (
        "renamed/1",
        "there is no 'model.onnx' in it, the file of a model of backend 'onnxruntime'",
    )
    assert 'default_model_filename: "net.onnx"' in report["renamed"][0][2]
    assert "model.onnx" in report["damaged"][0][1]
    assert report["syntax"] == [("syntax/1/model.py:2:32", "expected ':'", "")]
    assert report["raising"] == [("raising/1/model.py:2:1", "RuntimeError: it is broken", "")]
    for isolation in ("none", "process"):
        name = f"weightless_{isolation}"
        assert report[name] == [(f"{name}/1/model.py:3:1", "OSError: no weights here", "")]
    ((place, message, _),) = report["nameless"]
    assert place == "nameless/1/model.py:1:1"
    assert "TritonPythonModel" in message
    assert "labels.txt" in report["labelled"][0][1]
    ((place, message, fix),) = report["twice"]
    assert (place, fix) == ("twice/config.pbtxt:9:19", "did you mean 'labelled'?")
    assert message == "a step asks model 'labeled', which is in no repository"


WEIGHTLESS = """class TritonPythonModel:
    def initialize(self, args):
        raise OSError("no weights here")

    def execute(self, requests):
        return []
"""
POLICY = """dynamic_batching {
  preferred_batch_size: [ 16 ]
  priority_levels: 2
}
"""
LABELLED = 'output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]\n'


def test_what_is_not_opened(tmp_path):
    """Goal: --no-open asks no framework; --model looks at one only, and says so of one that is not there."""
    add_onnx(tmp_path, "damaged", GOOD)
    (tmp_path / "damaged" / "1" / "model.onnx").write_bytes(b"no model")
    add_onnx(tmp_path, "double", GOOD)
    assert found(tmp_path, "--no-open") == {}
    assert found(tmp_path, "--model", "double") == {}
    assert found(tmp_path, "--model", "doubl") == {
        "doubl": [(str(tmp_path), "there is no model 'doubl'", "did you mean 'double'?")]
    }


def test_a_framework_that_is_missing(tmp_path, monkeypatch):
    """Goal: the extra to install is the fix. Method: metadata of the framework is hidden."""
    import importlib.metadata

    version = importlib.metadata.version

    def hidden(name):
        if name.startswith("onnxruntime"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", hidden)
    add_onnx(tmp_path, "double", GOOD)
    (finding,) = found(tmp_path, "--no-open")["double"]
    assert finding[0] == "double/config.pbtxt:1:10"
    assert finding[2] == "pip install 'despina[onnx]'"


def test_places_that_are_no_repositories(tmp_path):
    """Goal: a model, a file, nothing, and an empty folder are told apart; a server warns of a model, too."""
    add_onnx(tmp_path, "double", GOOD)
    done = ask("check", str(tmp_path / "double"))
    assert done.returncode == 1
    assert f"this is a model, not a repository of models; did you mean its parent, {tmp_path}?" in done.stdout
    assert f"fix: despina check {tmp_path}" in done.stdout
    (tmp_path / "double" / "config.pbtxt").unlink()
    assert ask("check", str(tmp_path / "double")).returncode == 1
    assert ask("check", str(tmp_path / "gone")).returncode == 1
    (tmp_path / "empty").mkdir()
    done = ask("check", str(tmp_path / "empty"))
    assert done.returncode == 0
    assert "warning: there is no model in it" in done.stdout
    with Serving(str(tmp_path / "double"), "--exit-on-error=false") as server:
        assert server.wait_for(rf"did you mean its parent, {tmp_path}\?")


def test_warnings(tmp_path):
    """Goal: what is served all the same is a warning, and leaves the exit code 0."""
    add_onnx(tmp_path, "double")
    (tmp_path / "double" / "config.pbtx").write_text(GOOD)
    (tmp_path / "double" / "one").mkdir()
    report = found(tmp_path)
    assert {message for _, message, _ in report["double"]} == {
        "'config.pbtx' is not read; the configuration's file is config.pbtxt",
        "ignore version directory 'one' which fails to convert to integral number",
        "model 'double': max_batch_size is not configured, taking the default of 4",
    }


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_models_that_ask_at_once(tmp_path, isolation):
    """Goal: metrics of its own are no fault of a model; that it asks another while it opens is a warning, for here
    nobody answers."""
    family = "pb_utils.MetricFamily('n', 'd', pb_utils.MetricFamily.COUNTER)"
    add_model(tmp_path, "measured", OPENING.replace("ASK", family))
    add_model(tmp_path, "asking", OPENING.replace("ASK", "pb_utils.load_model('other')"))
    for name in ("measured", "asking"):
        config = tmp_path / name / "config.pbtxt"
        config.write_text(config.read_text().replace('"none"', f'"{isolation}"'))
    done = ask("check", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert f"{tmp_path}/asking/1/model.py:5:1: warning: " in done.stdout
    assert done.stdout.endswith("2 models, no faults, 1 warning\n")


OPENING = """import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.kept = ASK

    def execute(self, requests):
        return []
"""


def test_buckets(tmp_path, monkeypatch):
    """Goal: a repository in a bucket, with the places as the bucket has them. Method: an S3 server over HTTP."""
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRITON_AWS_MOUNT_DIRECTORY", str(tmp_path))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        place = "{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://{place}", **keys)
        client.create_bucket(Bucket="checked")
        client.put_object(Bucket="checked", Key="m/config.pbtxt", Body=b'backend: "onnxruntime"\nmax_batchsize: 1\n')
        client.put_object(Bucket="checked", Key="m/1/model.onnx", Body=b"weights")
        location = f"s3://{place}/checked"
        assert [place for place, _, _ in found(location)["m"]] == ["m/config.pbtxt:2:1"]
        assert list(tmp_path.iterdir()) == []
    finally:
        server.stop()


def test_one_name_in_two_repositories(tmp_path):
    """Goal: as a server would refuse it, unless names have spaces."""
    for folder in ("a", "b"):
        add_onnx(tmp_path / folder, "double", GOOD)
    done = ask("check", str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.returncode == 1
    assert "model 'double' is in several repositories" in done.stdout
    assert ask("check", str(tmp_path / "a"), str(tmp_path / "b"), "--model-namespacing").returncode == 0


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("'max_batch_size' must be non-negative value for m", (3, 1)),
        ("model 'm', tensor 'TWICE': wrong", (5, 18)),
        ("the dynamic batching of m", (6, 1)),
        ("nothing that it says", (1, 1)),
    ],
)
def test_places(message, place):
    """Goal: the quoted name, else the field that a sentence names, else the beginning."""
    assert place_of(message, CONFIG, "m") == place
