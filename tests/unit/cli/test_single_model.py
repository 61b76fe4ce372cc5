"""A folder that is one model, or its files, in the place of a repository."""

from __future__ import annotations

import contextlib
import os

import attrs
import pytest
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.settings import BadSettings, settle
from despina.frontends.cli.single_model import with_single_model
from despina.schema.fault import InvalidArgument


def settings(*locations, name="mine"):
    given = [f"--model-repository={location}" for location in locations]
    return settle(read_command_line([*given, f"--single-model={name}"], {}))


def laid_out(place, files):
    """What the engine sees of a folder with these files: paths, and what they lead to."""
    for path, text in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    with contextlib.ExitStack() as stack:
        made = with_single_model(settings(place), stack)
        (location,) = made.engine.model_repository
        found = {}
        for folder, _, names in os.walk(location, followlinks=True):
            for name in names:
                path = os.path.join(folder, name)
                with open(path) as file:
                    found[os.path.relpath(path, location)] = file.read()
    assert os.path.exists(location) == (location == str(place))
    return found


def test_a_model(tmp_path):
    assert laid_out(tmp_path, {"config.pbtxt": 'backend: "python"', "1/model.py": "x"}) == {
        "mine/config.pbtxt": 'backend: "python"',
        "mine/1/model.py": "x",
    }


def test_versions_alone(tmp_path):
    assert laid_out(tmp_path, {"1/model.onnx": "a", "2/model.onnx": "b"}) == {
        "mine/1/model.onnx": "a",
        "mine/2/model.onnx": "b",
    }


def test_the_configuration_may_name_it(tmp_path):
    """Goal: the name that it has to have, or it would not load; one that cannot be read says nothing."""
    assert set(laid_out(tmp_path / "a", {"config.pbtxt": '# name: "no"\nname: "own"'})) == {"own/config.pbtxt"}
    assert set(laid_out(tmp_path / "b", {"config.pbtxt": 'name: "own'})) == {"mine/config.pbtxt"}


def test_files_of_a_version(tmp_path):
    """Goal: the only ONNX file is the model, and keeps its own name for what stands beside it; of two none is."""
    assert laid_out(tmp_path / "a", {"sums.onnx": "x", "labels.txt": "y"}) == {
        "mine/1/model.onnx": "x",
        "mine/1/sums.onnx": "x",
        "mine/1/labels.txt": "y",
    }
    assert set(laid_out(tmp_path / "b", {"model.onnx": "x"})) == {"mine/1/model.onnx"}
    assert set(laid_out(tmp_path / "c", {"a.onnx": "x", "b.onnx": "y"})) == {"mine/1/a.onnx", "mine/1/b.onnx"}


def test_a_saved_model(tmp_path):
    assert laid_out(tmp_path, {"saved_model.pb": "x", "variables/v.index": "y"}) == {
        "mine/1/model.savedmodel/saved_model.pb": "x",
        "mine/1/model.savedmodel/variables/v.index": "y",
    }


@pytest.mark.parametrize("path", ["m/config.pbtxt", "m/1/model.onnx"])
def test_a_repository_stays_one(tmp_path, path):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("")
    given = settings(tmp_path)
    with contextlib.ExitStack() as stack:
        assert with_single_model(given, stack) is given


def test_without_the_option_nothing_changes(tmp_path):
    (tmp_path / "config.pbtxt").write_text("")
    given = settle(read_command_line([f"--model-repository={tmp_path}"], {}))
    with contextlib.ExitStack() as stack:
        assert with_single_model(given, stack) is given
        assert attrs.asdict(given)["single_model"] == {"name": ""}


@pytest.mark.parametrize("locations", [("/a", "/b"), ("s3://bucket/models",)])
def test_one_directory_of_this_machine(locations):
    with contextlib.ExitStack() as stack, pytest.raises(InvalidArgument, match="--single-model needs one"):
        with_single_model(settings(*locations), stack)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_names_that_are_none(name):
    with pytest.raises(BadSettings) as caught:
        settings("/m", name=name)
    assert caught.value.complaints[0].startswith('Bad option: "--single-model".')
