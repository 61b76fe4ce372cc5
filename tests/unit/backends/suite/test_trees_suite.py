"""What every backend must do, done by trees."""

from __future__ import annotations

import numpy as np
import xgboost
from despina.testing import backend_suite

ROWS = np.random.default_rng(3).random((200, 4), dtype=np.float32)
MODEL = xgboost.XGBRegressor(n_estimators=5, max_depth=3, n_jobs=1).fit(ROWS, ROWS.sum(axis=1))


class TestTrees(backend_suite.BackendSuite):
    backend = "trees"
    frameworks = ("xgboost", "lightgbm", "sklearn", "treelite", "joblib")
    test_datatypes = None  # a forest gives nothing back

    def write_model(self, folder):
        (folder / "1").mkdir()
        MODEL.save_model(folder / "1" / "xgboost.json")
        (folder / "config.pbtxt").write_text(
            'backend: "trees" max_batch_size: 16 dynamic_batching {} '
            'input [{ name: "rows" data_type: TYPE_FP32 dims: [-1] }] '
            'output [{ name: "values" data_type: TYPE_FP32 dims: [1] }]'
        )

    def inputs(self, rows, seed):
        return {"rows": np.random.default_rng(seed).random((rows, 4), dtype=np.float32)}

    def expected(self, inputs):
        return {"values": MODEL.predict(inputs["rows"])[:, None]}

    def bad_inputs(self):
        return {"rows": np.zeros((1, 3), np.float32)}
