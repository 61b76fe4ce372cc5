"""What every backend must do, done by PyTorch."""

from __future__ import annotations

import torch

from tests.unit.backends.suite.lookup import LookupSuite, identity_config


class Lookup(torch.nn.Module):
    def __init__(self, table):
        super().__init__()
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, index):
        return self.table[index]


class Identity(torch.nn.Module):
    def forward(self, x):
        return x


class TestPyTorch(LookupSuite):
    backend = "pytorch"
    frameworks = ("torch",)
    datatypes = ("BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16")

    def write_lookup(self, folder, table):
        (folder / "1").mkdir()
        torch.jit.script(Lookup(table)).save(folder / "1" / "model.pt")

    def write_identity(self, folder, datatype):
        (folder / "1").mkdir()
        torch.jit.script(Identity()).save(folder / "1" / "model.pt")
        identity_config(folder, self.backend, datatype)
