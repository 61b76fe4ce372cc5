"""What tells one make of a model from another."""

from __future__ import annotations

import os

import pytest
from despina.engine.repository.fingerprint import READ_BYTES_MAX, fingerprint
from despina.schema.wire.generated.inference import ModelConfig


@pytest.fixture
def model(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "1" / "model.py").write_text("one")
    (tmp_path / "1" / "weights").write_bytes(bytes(READ_BYTES_MAX + 1))
    (tmp_path / "labels.txt").write_text("a\n")
    return tmp_path


def made(model, config=None):
    return fingerprint(model, model / "1", config or ModelConfig(name="m"))


def test_what_an_answer_may_depend_on(model):
    """Goal: each change of the configuration or of a file is another make."""
    seen = {made(model), made(model, ModelConfig(name="m", max_batch_size=2))}
    (model / "labels.txt").write_text("b\n")
    seen.add(made(model))
    (model / "1" / "model.py").write_text("two")
    seen.add(made(model))
    (model / "1" / "more").mkdir()
    (model / "1" / "more" / "table").write_text("")
    seen.add(made(model))
    stamp = (model / "1" / "weights").stat().st_mtime_ns + 1
    os.utime(model / "1" / "weights", ns=(stamp, stamp))
    seen.add(made(model))
    assert len(seen) == 6


def test_what_none_depends_on(model):
    """Goal: other versions, what Python writes, and when small files were written make no difference."""
    before = made(model)
    (model / "2" / "model.py").write_text("other")
    (model / "1" / "__pycache__").mkdir()
    (model / "1" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    (model / "config.pbtxt").write_text("# settled by the time that it counts")
    os.utime(model / "1" / "model.py", ns=(1, 1))
    assert made(model) == before
