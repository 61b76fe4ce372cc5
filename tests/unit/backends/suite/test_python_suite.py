"""What every backend must do, done by Python models: in this process, and each instance in one of its own."""

from __future__ import annotations

import numpy as np

from tests.unit.backends.suite.lookup import LookupSuite, identity_config

LOOKUP = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            index = pb_utils.get_input_tensor_by_name(request, "index").as_numpy()
            try:
                value = TABLE[index]
            except IndexError as error:
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
            else:
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("value", value)]))
        return answers
"""
IDENTITY = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy())
            ])
            for request in requests
        ]
"""


class TestPython(LookupSuite):
    backend = "python"
    isolation = "none"
    datatypes = ("BOOL", "BYTES", "FP16", "FP32", "FP64", *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)))

    @property
    def more(self):
        return f'parameters [{{ key: "DESPINA_ISOLATION" value: {{ string_value: "{self.isolation}" }} }}]'

    def write_lookup(self, folder, table):
        (folder / "1").mkdir()
        np.save(folder / "table.npy", table)
        (folder / "1" / "model.py").write_text(LOOKUP.replace("TABLE", f"np.array({table.tolist()}, np.float32)"))

    def write_identity(self, folder, datatype):
        (folder / "1").mkdir()
        (folder / "1" / "model.py").write_text(IDENTITY)
        identity_config(folder, self.backend, datatype, self.more)


class TestIsolatedPython(TestPython):
    """Fewer cycles, and datatypes whose form differs only: each costs a process."""

    isolation = "process"
    datatypes = ("BYTES", "FP16")
    cycles = 2
