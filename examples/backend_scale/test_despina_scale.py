"""The backend keeps its word: `python -m pytest` in this folder, where despina and the package are installed."""

import json

import numpy as np
from despina.testing import backend_suite

CONFIG = """backend: "scale" max_batch_size: 8 dynamic_batching {}
input [{ name: "x" data_type: TYPE_%s dims: [4] }]
output [{ name: "y" data_type: TYPE_%s dims: [4] }]"""


class TestScale(backend_suite.BackendSuite):
    backend = "scale"
    datatypes = ("UINT8", "INT32", "INT64", "FP16", "FP32", "FP64")

    def write_model(self, folder, datatype="FP32", **settings):
        (folder / "1").mkdir()
        (folder / "1" / "scale.json").write_text(json.dumps(settings or {"factor": 3, "limit": 100}))
        (folder / "config.pbtxt").write_text(CONFIG % (datatype, datatype))

    def inputs(self, rows, seed):
        return {"x": np.full((rows, 4), seed % 100, np.float32)}

    def expected(self, inputs):
        return {"y": inputs["x"] * 3}

    def bad_inputs(self):
        return {"x": np.full((1, 4), 101, np.float32)}

    def write_identity(self, folder, datatype):
        self.write_model(folder, datatype, factor=1)
