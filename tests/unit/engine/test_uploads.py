"""Files that come with a load: where they go, and where they must not."""

import pytest
from despina.engine.repository.upload import upload
from despina.schema.fault import InvalidArgument


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("1/model.py", "1/model.py"),
        ("/1/model.py", "1/model.py"),
        ("//1/model.py", "1/model.py"),
        ("1//model.py", "1/model.py"),
        ("/tmp/../1/model.py", "1/model.py"),
        ("/etc/despina", "etc/despina"),
    ],
)
def test_names_are_paths_below_the_models_directory(name, place):
    """Goal: a leading slash is the model's directory, not the machine's root, as in the reference server."""
    source = upload("m", {name: b"content"})
    assert [path.relative_to(source.path).as_posix() for path in source.path.rglob("*") if path.is_file()] == [place]
    assert source.path.name == "m"
    source.discard()
    assert not source.path.parent.exists()


@pytest.mark.parametrize("name", ["../model.py", "/../model.py", "1/../../x", "", "/", ".", "a\0b", "x" * 300])
def test_names_that_leave_the_models_directory_or_are_none(name, tmp_path, monkeypatch):
    """Goal: refused by name, and nothing stays behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InvalidArgument, match="Invalid file parameter 'file:"):
        upload("m", {"1/first": b"", name: b""})
    assert list(tmp_path.iterdir()) == []
