"""What every backend must do, done by TensorFlow."""

from __future__ import annotations

from despina.schema.datatype import BY_NAME

from tests.unit.backends import tensorflow_models as models
from tests.unit.backends.suite.lookup import LookupSuite, identity_config


class TestTensorFlow(LookupSuite):
    backend = "tensorflow"
    frameworks = ("tensorflow",)
    datatypes = tuple(BY_NAME)

    def saved(self, folder, build):
        (folder / "1").mkdir()
        models.saved_by_version_1(folder / "1" / "model.savedmodel", build)

    def write_lookup(self, folder, table):
        def build(v1):
            index = v1.placeholder("int64", [None, 2])
            return {"serving_default": ({"index": index}, {"value": v1.gather(v1.constant(table), index)})}

        self.saved(folder, build)

    def write_identity(self, folder, datatype):
        names = {"BYTES": "string", "BF16": "bfloat16"}

        def build(v1):
            x = v1.placeholder(names.get(datatype) or BY_NAME[datatype].dtype, [None, 4])
            return {"serving_default": ({"x": x}, {"y": v1.identity(x)})}

        self.saved(folder, build)
        identity_config(folder, self.backend, datatype)
