"""A whole backend: multiplies rows by the number in `scale.json`, up to a limit. Its tests: test_despina_scale.py."""

import copy
import json
import logging

import numpy as np
from despina import InvalidArgument, ModelFailure, Unavailable
from despina.backends.gather import InputGatherer, OutputScatterer
from despina.backends.halves import answer_apart
from despina.engine.port.backend import Backend, BackendInstance, BackendModel
from despina.schema.wire.generated.inference import DataType, ModelInput, ModelOutput


class ScaleBackend(Backend):
    name = "scale"
    preferred_kind = "CPU"

    def open_model(self, context):
        return ScaleModel(context)

    def config_summary(self):
        return f"numpy {np.__version__}"


class ScaleModel(BackendModel):  # its close, and the instance's, have nothing to free
    def __init__(self, context):
        path = context.version_path / (context.config.default_model_filename or "scale.json")
        if not path.is_file():
            raise Unavailable(f"unable to find '{path}' for model '{context.name}'")
        self.settings = {"factor": 1, "limit": float("inf")} | json.loads(path.read_text())
        self.config = config = copy.deepcopy(context.config)
        if context.auto_complete and not config.input:
            config.max_batch_size = config.max_batch_size or int(context.backend_config["default-max-batch-size"])
            config.input = [ModelInput(name="x", data_type=DataType.TYPE_FP32, dims=[-1])]
            config.output = [ModelOutput(name="y", data_type=DataType.TYPE_FP32, dims=[-1])]
        if [item.name for item in (*config.input, *config.output)] != ["x", "y"]:
            raise InvalidArgument(f"model '{config.name}' must have one input 'x' and one output 'y'")

    def open_instance(self, instance):
        return ScaleInstance(instance.name, self.config, self.settings)


class ScaleInstance(BackendInstance):
    movable = True  # any thread may execute: cheap batches need no thread of their own

    def __init__(self, name, config, settings):
        self.name, self.settings, self.log = name, settings, logging.getLogger("despina.backends.scale")
        self.gatherer, self.scatterer = InputGatherer(config), OutputScatterer(config)

    def execute(self, batch):
        answer_apart(self.name, self.log, batch, batch.jobs, batch.size, self.answer)

    def answer(self, batch, jobs, rows):
        x = self.gatherer.gather(jobs, rows)["x"]
        if (x > self.settings["limit"]).any():
            raise ModelFailure(f"a value is above the limit of {self.settings['limit']}")
        self.scatterer.scatter(jobs, rows, {"y": x * x.dtype.type(self.settings["factor"])})
