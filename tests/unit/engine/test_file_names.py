"""Names of files in a configuration: nothing outside the model's directory is read or executed for them."""

from __future__ import annotations

import json

import despina
import numpy as np
import pytest

from tests import in_process

MODEL = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[VALUE]], np.float32))]) for _ in requests]
import numpy as np

from tests import in_process
VALUE = {value}
open({witness!r}, "a").write("{value}")
"""
CONFIG = {
    "backend": "python",
    "max_batch_size": 1,
    "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [1]}],
}


@pytest.fixture
def folder(tmp_path):
    """A repository with the model `m`, whose file answers 1, and files beside and around it that answer others. Which
    of them were executed stands in the file `witness`."""
    models = tmp_path / "models"
    (models / "m" / "1").mkdir(parents=True)
    (models / "m" / "config.pbtxt").write_text('backend: "python"')
    for place, value in (("models/m/1", 1), ("models/m", 2), ("models", 3), (".", 4)):
        text = MODEL.format(value=value, witness=str(tmp_path / "witness"))
        (tmp_path / place / "model.py").write_text(text)
    (tmp_path / "witness").touch()
    return tmp_path


async def loaded(folder, **config):
    """What the model answers after a load with this configuration."""
    async with despina.open_engine(
        folder / "models", backend_config=in_process.SETTING, model_control_mode="explicit"
    ) as engine:
        await engine.load("m", config=json.dumps({**CONFIG, **config}))
        result = await engine.infer("m", {"IN": np.zeros((1, 1), np.float32)})
        return int(result["OUT"][0, 0])


def warm_up(file):
    sample = {"data_type": "TYPE_FP32", "dims": [1], "input_data_file": file}
    return {"model_warmup": [{"name": "w", "batch_size": 1, "inputs": {"IN": sample}}]}


def initial_state(file):
    state = {"name": "s", "data_type": "TYPE_FP32", "dims": [1], "data_file": file}
    return {"sequence_batching": {"state": [{"input_name": "a", "output_name": "b", "initial_state": [state]}]}}


FIELDS = {
    "default_model_filename": lambda file: {"default_model_filename": file},
    "runtime": lambda file: {"runtime": file},
    "cc_model_filenames['7.5']": lambda file: {"cc_model_filenames": {"7.5": file}},
    "model_operations.op_library_filename": lambda file: {"model_operations": {"op_library_filename": ["a", file]}},
    "model_warmup 'w', input_data_file of 'IN'": warm_up,
    "initial_state 's', data_file": initial_state,
}


@pytest.mark.parametrize("file", ["{folder}/model.py", "../../../model.py", "../model.py", "x/../model.py", "a\0.py"])
@pytest.mark.parametrize("field", FIELDS)
async def test_names_that_leave_the_directory(folder, field, file):
    """Goal: every field that names a file refuses what is absolute or has `..`, by name, before code runs."""
    file = file.replace("{folder}", str(folder))
    with pytest.raises(despina.InvalidArgument) as caught:
        await loaded(folder, **FIELDS[field](file))
    assert f"Invalid argument: model 'm', {field}: expected a relative path without '..'" in caught.value.message
    assert repr(file)[1:-1] in repr(caught.value.message)
    assert (folder / "witness").read_text() == ""


@pytest.mark.parametrize("file", ["../labels.txt", "{folder}/models/labels.txt"])
async def test_labels_in_the_protocols_words(folder, file):
    """Goal: a label file outside is refused as the newest release refuses it."""
    (folder / "models" / "labels.txt").write_text("a\n")
    output = {**CONFIG["output"][0], "label_filename": file.replace("{folder}", str(folder))}
    with pytest.raises(
        despina.InvalidArgument, match=r"Unsupported: label file path '.*' for output 'OUT' in model 'm'"
    ):
        await loaded(folder, output=[output])


async def test_links_are_followed(folder):
    """Goal: whoever keeps the repository may link versions, model files and data from wherever they are."""
    model = folder / "models" / "m"
    elsewhere = folder / "elsewhere"
    (model / "1").rename(elsewhere)
    (model / "1").symlink_to(elsewhere)
    (elsewhere / "other.py").symlink_to(folder / "model.py")
    (model / "warmup").mkdir()
    (folder / "data").write_bytes(bytes(4))
    (model / "warmup" / "d").symlink_to(folder / "data")
    assert await loaded(folder, **warm_up("d")) == 1
    assert await loaded(folder, default_model_filename="other.py") == 4
    assert await loaded(folder, default_model_filename="./model.py") == 1


async def test_custom_batching_is_not_built(folder):
    """Goal: the library of a batching strategy would be code from a path, too; it is refused, not ignored."""
    strategy = {"TRITON_BATCH_STRATEGY_PATH": {"string_value": "/tmp/x.so"}}
    with pytest.raises(despina.InvalidArgument, match="'TRITON_BATCH_STRATEGY_PATH' is not supported yet"):
        await loaded(folder, parameters=strategy, dynamic_batching={})
