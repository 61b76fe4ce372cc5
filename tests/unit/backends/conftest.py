"""What backends need to run without an engine: contexts, jobs with a stand-in for the model, batches."""

import gc
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
from despina.backends.python.isolated.frames import Codec
from despina.engine.port.backend import InstanceContext, ModelContext
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.schema.inference import InferenceRequest
from despina.schema.tensor import Tensor

from tests import in_process


@pytest.fixture
def ends():
    """Two ends of a link: the server's and the process's."""
    ours, theirs = Codec(), Codec()
    yield ours, theirs
    gc.collect()
    ours.close()
    theirs.close()


@attrs.frozen
class Bench:
    """A model directory and the ways to use it as the engine would."""

    path: object

    def context(self, config, *, auto_complete=True, backend_config=None):
        (self.path / "1").mkdir(exist_ok=True, parents=True)
        return ModelContext(
            name=config.name,
            version=1,
            model_path=self.path,
            version_path=self.path / "1",
            config=config,
            auto_complete=auto_complete,
            backend_config={"default-max-batch-size": "4", **in_process.SETTING["python"], **(backend_config or {})},
        )

    @staticmethod
    def instance(name="m_0_0", kind="CPU", device_id=0):
        return InstanceContext(name=name, kind=kind, device_id=device_id)

    @staticmethod
    def job(arrays, *, batching=True, **request):
        """A job whose tensors are in wire form, as doors deliver them; values may be arrays or tensors."""
        inputs = {}
        for name, value in arrays.items():
            tensor = value if isinstance(value, Tensor) else Tensor.of(name, value)
            inputs[name] = Tensor(name, tensor.datatype, tensor.shape, memory=bytes(tensor.memory()))
        made = Job(InferenceRequest("m", inputs, **request), lambda job: None)
        made.ledger = SimpleNamespace(version_text="1")
        first = next(iter(inputs.values()), None)
        made.batch_size = first.shape[0] if batching and first is not None and len(first.shape) else 1
        return made

    @staticmethod
    def batch(*jobs):
        return Batch(list(jobs), sum(job.batch_size for job in jobs), "single")

    @staticmethod
    def outputs(job):
        assert job.fault is None, job.fault
        return {tensor.name: tensor.numpy() for tensor in job.response.outputs}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "m")


@pytest.fixture
def sixteen():
    return np.arange(16, dtype=np.int32).reshape(1, 16)
