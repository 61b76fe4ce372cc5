"""Backends that are written in Python: `<backend-directory>/<name>/model.py`."""

from __future__ import annotations

import json

import despina
import numpy as np
import pytest
import trio

CODE = """
import json
import beside_backend, beside_model
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [1]})
        config.add_output({"name": "OUT", "data_type": "TYPE_STRING", "dims": [1]})
        return config
    def initialize(self, args):
        with open(pb_utils.get_model_dir() + "/settings.json") as file:
            self.about = [json.load(file), beside_backend.VALUE, beside_model.VALUE, args["model_name"]]
    def execute(self, requests):
        if pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0] < 0:
            raise ValueError("negative")
        said = np.array([json.dumps(self.about).encode()], object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", said)]) for _ in requests]
"""


@pytest.fixture
def folders(tmp_path):
    """A directory of backends with `tidy`, and a repository with two models of it."""
    backend, models = tmp_path / "backends" / "tidy", tmp_path / "models"
    backend.mkdir(parents=True)
    (backend / "model.py").write_text(CODE)
    (backend / "beside_backend.py").write_text("VALUE = 'backend'\n")
    for number, name in enumerate("ab"):
        (models / name / "1").mkdir(parents=True)
        (models / name / "config.pbtxt").write_text('backend: "tidy"\ninstance_group [{ kind: KIND_CPU count: 1 }]\n')
        (models / name / "1" / "settings.json").write_text(json.dumps(number))
        (models / name / "1" / "beside_model.py").write_text(f"VALUE = 'model {number}'\n")
    return tmp_path


@pytest.fixture(params=["none", "process"])
def opened(request, folders):
    """An engine over both models."""
    settings = {"tidy": {"isolation": request.param}}
    return despina.open_engine(
        folders / "models", backend_directory=str(folders / "backends"), backend_config=settings, exit_on_error=False
    )


async def test_models_of_one(opened, folders):
    """Each has files and modules of its own, and the backend's; its faults name the backend's lines."""
    async with opened as engine:
        for number, name in enumerate("ab"):
            with trio.fail_after(20):
                answer = await engine.infer(name, {"IN": np.zeros(1, np.int32)})
            assert json.loads(answer["OUT"].item()) == [number, "backend", f"model {number}", name]
        with pytest.raises(despina.ModelFailure) as caught:
            await engine.infer("a", {"IN": np.full(1, -1, np.int32)})
        assert f"{folders / 'backends' / 'tidy' / 'model.py'}(" in caught.value.message


async def test_an_environment_of_the_backends(folders):
    """The archive beside its `model.py` is that of all of its models that name none."""
    (folders / "backends" / "tidy" / "pb_exec_env_model.py.tar.gz").write_bytes(b"no archive")
    (folders / "models" / "b" / "config.pbtxt").open("a").write(
        'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/nowhere" } }'
    )
    async with despina.open_engine(
        folders / "models", backend_directory=str(folders / "backends"), exit_on_error=False
    ) as engine:
        reasons = {line.name: line.reason for line in await engine.index()}
    assert "pb_exec_env_model.py.tar.gz' cannot be unpacked" in reasons["a"]
    assert "'/nowhere'" in reasons["b"]


@pytest.mark.parametrize("name", ["other", "../tidy", "tidy/.", ".", "..", ""])
async def test_a_backend_that_is_not_there(folders, name):
    """Names lead nowhere else: clients may write them."""
    (folders / "models" / "a" / "config.pbtxt").write_text(f'backend: "{name}"\n')
    async with despina.open_engine(
        folders / "models", backend_directory=str(folders / "backends" / "tidy" / ".."), exit_on_error=False
    ) as engine:
        assert not engine.is_model_ready("a")
        assert engine.is_model_ready("b")


@pytest.mark.parametrize("setting", ["shm-default-byte-size", "stub-timeout-seconds", "thread-pool-size"])
@pytest.mark.parametrize("value", ["0", "-1", "x"])
async def test_settings_that_are_no_numbers(folders, setting, value):
    """They are refused by name, also those that have no effect."""
    async with despina.open_engine(
        folders / "models",
        backend_directory=str(folders / "backends"),
        backend_config={"tidy": {setting: value}},
        exit_on_error=False,
    ) as engine:
        (first, _) = await engine.index()
        assert f"{setting} must be a positive number, got '{value}'" in first.reason
