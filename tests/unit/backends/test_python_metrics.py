"""Metrics of Python models' own: how long they are there. Their words are compared with the reference server's."""

from __future__ import annotations

import gc

import despina
import numpy as np
import pytest

from tests import in_process

CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "OUT" data_type: TYPE_INT32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: %d }]
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils
KINDS = pb_utils.MetricFamily
class TritonPythonModel:
    def initialize(self, args):
        self.family = pb_utils.MetricFamily("mine", "Mine", KINDS.COUNTER)
        self.metric = self.family.Metric(labels={"model": args["model_name"]})
        self.me = self
    def execute(self, requests):
        for request in requests:
            for x in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy():
                self.metric.increment(int(x))
                for _ in range(300):
                    self.family.Metric(labels={"one": "of many"})
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1, np.int32))]) for _ in requests]
"""


@pytest.fixture
def repository(tmp_path):
    """Two models, `a` with two instances."""
    for name, count in (("a", 2), ("b", 1)):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(CONFIG % count)
        (tmp_path / name / "1" / "model.py").write_text(MODEL)
    return tmp_path


def shown(engine):
    """What is on the page: labels -> value."""
    return {
        tuple(metric.labels.items()): metric.value()
        for family in engine.custom_metrics.families()
        for metric in family.metrics()
    }


async def test_metrics_are_there_as_long_as_an_instance_has_them(repository):
    """Instances and models share a family; each series goes with its last holder, the family with the last model."""
    async with despina.open_engine(
        repository, backend_config=in_process.SETTING, model_control_mode="explicit", load_model="*"
    ) as engine:
        for name in "ab":
            await engine.infer(name, {"IN": np.array([2, 3], np.int32)})
        gc.collect()
        assert shown(engine) == {(("model", "a"),): 5.0, (("model", "b"),): 5.0}
        await engine.load("a", config=None)
        await engine.infer("a", {"IN": np.array([1], np.int32)})
        assert shown(engine)[(("model", "a"),)] == 6.0
        version = engine.model("a")
        await engine.unload("a")
        await version.drain(5)
        assert list(shown(engine)) == [(("model", "b"),)]
        version = engine.model("b")
        await engine.unload("b")
        await version.drain(5)
        assert not engine.custom_metrics.families()
        assert not engine.custom_metrics._families


async def test_a_model_that_does_not_load_leaves_no_metrics(repository):
    """What it made before it failed goes at once."""
    file = repository / "b" / "1" / "model.py"
    file.write_text(MODEL.replace("self.me = self", "raise ValueError('no')"))
    async with despina.open_engine(
        repository, backend_config=in_process.SETTING, model_control_mode="explicit"
    ) as engine:
        with pytest.raises(despina.Fault, match="no"):
            await engine.load("b")
        assert not engine.custom_metrics._families
