"""The suite finds what it is for: the example's backend passes it, and fails it once it breaks a rule."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from despina.backends.trees import TreesBackend
from despina.schema.fault import Fault
from despina.testing import backend_suite

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "backend_scale"


def loaded(name):
    """A file of the example, which is not installed here."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scale = loaded("despina_scale")
BaseSuite = loaded("test_despina_scale").TestScale
BaseSuite.__test__ = False  # its own folder is where it is collected


class ScaleSuite(BaseSuite):
    instance = scale.ScaleInstance
    model = scale.ScaleModel
    cycles = 2
    timeout_s = 20.0

    def found(self):
        suite = self

        class Model(suite.model):
            def open_instance(self, instance):
                made = suite.instance(instance.name, self.config, self.settings)
                made.model = self
                return made

        class Broken(scale.ScaleBackend):
            def open_model(self, context):
                return Model(context)

        return Broken()


class TestUnbroken(ScaleSuite):
    """All but the entry point, which only an installed package has (tests/examples)."""

    __test__ = True
    test_entry_point_brings_no_framework = None


class OneBuffer(scale.ScaleInstance):
    """Answers are views of memory that the next batch writes."""

    buffer = None

    def answer(self, batch, jobs, rows):
        x = self.gatherer.gather(jobs, rows)["x"]
        if self.buffer is None:
            self.buffer = np.empty((8, x.shape[1]), x.dtype)
        np.multiply(x, self.settings["factor"], out=self.buffer[:rows], casting="unsafe")
        self.scatterer.scatter(jobs, rows, {"y": self.buffer[:rows]})


class WritesToInputs(scale.ScaleInstance):
    def answer(self, batch, jobs, rows):
        x = self.gatherer.gather(jobs, rows)["x"]
        x.flags.writeable = True
        x *= x.dtype.type(self.settings["factor"])
        self.scatterer.scatter(jobs, rows, {"y": x.copy()})


class AllFailTogether(scale.ScaleInstance):
    def execute(self, batch):
        self.answer(batch, batch.jobs, batch.size)


class MixesRows(scale.ScaleInstance):
    def answer(self, batch, jobs, rows):
        super().answer(batch, jobs[::-1], rows)
        if len(jobs) > 1:
            jobs[0].response, jobs[1].response = jobs[1].response, jobs[0].response


class ForgetsOne(scale.ScaleInstance):
    def execute(self, batch):
        for job in batch.jobs[: len(batch.jobs) // 2 or 1]:
            self.answer(batch, [job], job.batch_size)


class ComputesInFloats(scale.ScaleInstance):
    def answer(self, batch, jobs, rows):
        x = self.gatherer.gather(jobs, rows)["x"]
        y = x.astype(np.float32) * self.settings["factor"]
        with np.errstate(all="ignore"):
            self.scatterer.scatter(jobs, rows, {"y": y.astype(x.dtype)})


class SharesScratch(scale.ScaleInstance):
    """Instances of a model execute at the same time."""

    def answer(self, batch, jobs, rows):
        self.model.scratch = self.gatherer.gather(jobs, rows)["x"]
        time.sleep(0.002)
        x = self.model.scratch
        if len(x) != rows:
            x = np.zeros((rows, 4), np.float32)
        self.scatterer.scatter(jobs, rows, {"y": x * 3})


class NeedsAlignment(scale.ScaleInstance):
    def execute(self, batch):
        for job in batch.jobs:
            assert job.request.inputs["x"].numpy().flags.aligned
        super().execute(batch)


LEFT = []


class NeverGoes(scale.ScaleModel):
    def __init__(self, context):
        super().__init__(context)
        LEFT.append(self)


class ChangesTheConfiguration(scale.ScaleModel):
    def __init__(self, context):
        super().__init__(context)
        context.config.name += "2"


class TrustsFiles(scale.ScaleModel):
    def __init__(self, context):
        (context.version_path / "scale.json").read_text()
        super().__init__(context)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (OneBuffer, "test_answers_are_not_written_to"),
        (WritesToInputs, "test_answers"),
        (AllFailTogether, "test_a_bad_request_does_not_spoil_its_neighbours"),
        (MixesRows, "test_requests_share_batches"),
        (ForgetsOne, "test_requests_share_batches"),
        (ComputesInFloats, "test_datatypes"),
        (SharesScratch, "test_many_callers_of_several_instances"),
        (NeedsAlignment, "test_bytes_as_they_come_over_the_wire"),
        (NeverGoes, "test_memory_comes_back"),
        (NeverGoes, "test_unloading_while_requests_wait"),
        (ChangesTheConfiguration, "test_its_configuration_is_whole"),
        (TrustsFiles, "test_a_version_without_files_is_refused"),
    ],
)
def test_a_broken_rule_is_found(tmp_path, broken, test):
    """Goal: each of the suite's tests fails for a backend that breaks what it is about."""
    suite = ScaleSuite()
    setattr(suite, "model" if issubclass(broken, scale.ScaleModel) else "instance", broken)
    suite.goes_within_s = 1.0
    try:
        with pytest.raises((AssertionError, Fault, ExceptionGroup)):
            getattr(suite, test)(tmp_path)
    finally:
        LEFT.clear()


def test_a_framework_imported_too_early_is_found():
    """Goal: what is in sys.modules once the backend is found is told."""
    suite = backend_suite.BackendSuite()
    suite.backend, suite.frameworks = TreesBackend.name, ["numpy"]
    with pytest.raises(subprocess.CalledProcessError):
        suite.test_entry_point_brings_no_framework()


def test_what_an_author_did_not_write_is_told(tmp_path):
    """Goal: a suite without its methods does not pass."""
    suite = backend_suite.BackendSuite()
    suite.backend = "trees"
    with pytest.raises(NotImplementedError, match="write_model"):
        suite.test_answers(tmp_path)
    with pytest.raises(AssertionError, match="test_datatypes = None"):
        suite.test_datatypes(tmp_path)
    assert "despina.testing" in sys.modules
