"""The model that suites of frameworks use: it looks values up in a table, and indexes beyond its end are bad."""

from __future__ import annotations

import numpy as np
from despina.schema.datatype import BY_NAME
from despina.testing import backend_suite

TABLE = np.random.default_rng(5).random(100, dtype=np.float32)


class LookupSuite(backend_suite.BackendSuite):
    """What is left to a framework: to write the model. `index` is INT64, `value` FP32, both of dims [2]."""

    more = ""
    """Of the configuration."""

    def write_lookup(self, folder, table):
        raise NotImplementedError

    def write_model(self, folder):
        self.write_lookup(folder, TABLE)
        (folder / "config.pbtxt").write_text(
            f'backend: "{self.backend}" max_batch_size: 16 dynamic_batching {{}} {self.more} '
            'input [{ name: "index" data_type: TYPE_INT64 dims: [2] }] '
            'output [{ name: "value" data_type: TYPE_FP32 dims: [2] }]'
        )

    def inputs(self, rows, seed):
        return {"index": np.random.default_rng(seed).integers(0, len(TABLE), (rows, 2))}

    def expected(self, inputs):
        return {"value": TABLE[inputs["index"]]}

    def bad_inputs(self):
        return {"index": np.full((1, 2), len(TABLE) + 1)}


def identity_config(folder, backend, datatype, more=""):
    """Of a model from x to y."""
    kind = BY_NAME[datatype].config_name
    (folder / "config.pbtxt").write_text(
        f'backend: "{backend}" max_batch_size: 8 dynamic_batching {{}} {more} '
        f'input [{{ name: "x" data_type: {kind} dims: [4] }}] output [{{ name: "y" data_type: {kind} dims: [4] }}]'
    )
