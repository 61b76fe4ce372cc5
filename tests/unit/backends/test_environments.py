"""Models with an interpreter and packages of their own: folders and archives, and what may not come out of one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import despina
import numpy as np
import pytest
import trio
from despina.backends.python.isolated import instance
from despina.backends.python.isolated.process import ModelProcess
from despina.backends.python.unpacking import unpack
from despina.schema.fault import InvalidArgument

CONFIG = """
backend: "python"
input [{ name: "IN" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
ENVIRONMENT = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "%s" } }\n'
MODEL = """
import multiprocessing, os, sys
import only_there
import numpy as np
import triton_python_backend_utils as pb_utils

def from_afar(queue):
    import only_there
    import triton_python_backend_utils
    queue.put(only_there.VALUE)

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config if only_there.VALUE else None
    def execute(self, requests):
        spawning = multiprocessing.get_context("spawn")
        queue = spawning.Queue()
        process = spawning.Process(target=from_afar, args=(queue,))
        process.start()
        said = [only_there.VALUE, queue.get(), sys.prefix, os.environ["VIRTUAL_ENV"], os.environ["PATH"].split(":")[0]]
        process.join()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(said, object))]) for _ in requests]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with a module of its own, and the numpy of this one; attrs and despina are not there."""
    folder = tmp_path_factory.mktemp("made") / "environment"
    base = [sys._base_executable, "-m", "venv", "--copies", "--without-pip"]
    subprocess.run([*base, str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "only_there.py").write_text("VALUE = 'there'\n")
    (packages / "numpy").symlink_to(Path(np.__file__).parent)
    for libraries in Path(np.__file__).parent.parent.glob("numpy.libs"):
        (packages / "numpy.libs").symlink_to(libraries)
    for name in ("python3", Path(sys.executable).resolve().name):
        (folder / "bin" / name).unlink(missing_ok=True)
    (folder / "lib64").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def archive(environment, tmp_path_factory):
    """The same, packed, with numpy as a file that names its folder: a link would lead out."""
    place = tmp_path_factory.mktemp("packed") / "environment.tar.gz"
    with tarfile.open(place, "w:gz", compresslevel=1) as packed:
        for path in sorted(environment.rglob("*")):
            if path.name not in ("numpy", "numpy.libs"):
                packed.add(path, path.relative_to(environment), recursive=False)
        (packages,) = environment.glob("lib/python*/site-packages")
        told = f"{Path(np.__file__).parent.parent}\n".encode()
        about = tarfile.TarInfo(str(packages.relative_to(environment) / "numpy.pth"))
        about.size = len(told)
        packed.addfile(about, io.BytesIO(told))
    return place


@pytest.fixture
def models(tmp_path, monkeypatch):
    """`models(name, environment, more)` writes one. What is unpacked is in a folder of the test's."""
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    folder = tmp_path / "models"

    def write(name, path, more=""):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG + ENVIRONMENT % path + more)
        (folder / name / "1" / "model.py").write_text(MODEL)
        return folder / name

    write.folder = folder
    return write


async def ask(engine, name):
    with trio.fail_after(60):
        return [text.decode() for text in (await engine.infer(name, {"IN": np.zeros(1, np.int32)}))["OUT"]]


def temporary():
    return [path.name for path in Path(tempfile.gettempdir()).glob("despina-model-*")]


async def test_a_folder(models, environment):
    """The model, what completes it and what it spawns find what is there; nothing of the server's is needed there."""
    models("m", environment)
    async with despina.open_engine(models.folder) as engine:
        where = str(environment)
        assert await ask(engine, "m") == ["there", "there", where, where, f"{where}/bin"]


async def test_an_archive_is_unpacked_once(models, archive):
    """For all of its models, and goes with the last of them. `$$TRITON_MODEL_DIRECTORY` is the model's directory."""
    for name in "ab":
        models(name, archive)
    (models("c", "$$TRITON_MODEL_DIRECTORY/own.tar.gz") / "own.tar.gz").symlink_to(archive)
    async with despina.open_engine(models.folder, model_control_mode="explicit", load_model=["a", "b"]) as engine:
        (made,) = temporary()
        first, second = await ask(engine, "a"), await ask(engine, "b")
        assert first == second
        assert first[:2] == ["there", "there"]
        assert first[2] == f"{tempfile.gettempdir()}/{made}/environment"
        await engine.load("c")
        assert (await ask(engine, "c"))[2] == first[2]
        for name in "abc":
            version = engine.model(name)
            await engine.unload(name)
            await version.drain(5)
        with trio.fail_after(10):
            while temporary():  # noqa: ASYNC110  a thread removes it
                await trio.sleep(0.01)


async def test_a_process_is_started_by_the_engines_own_thread(models, environment, monkeypatch):
    """Goal: an idle model stays: a process ends with the thread that started it, and helping ones do when idle."""
    threads = []

    def start(program=None):
        threads.append(threading.current_thread())
        return ModelProcess(program)

    monkeypatch.setattr(instance, "ModelProcess", start)
    models("m", environment)
    async with despina.open_engine(models.folder) as engine:
        assert (await ask(engine, "m"))[0] == "there"
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nowhere/at.tar.gz", "No such file or directory"),
        ("$$TRITON_MODEL_DIRECTORY/config.pbtxt", "cannot be unpacked"),
        ("$$TRITON_MODEL_DIRECTORY", "there is no bin/python in"),
    ],
)
async def test_an_environment_that_is_none(models, path, why):
    """The load says so, and leaves nothing behind."""
    models("m", path)
    async with despina.open_engine(models.folder, exit_on_error=False) as engine:
        (line,) = await engine.index()
        assert "unable to load model 'm': EXECUTION_ENV_PATH" in line.reason
        assert why in line.reason
    assert not temporary()


async def test_an_environment_in_this_process(models, environment):
    """Cannot be: it is refused, and how it can be is told."""
    models("m", environment, 'parameters { key: "DESPINA_ISOLATION" value { string_value: "none" } }')
    async with despina.open_engine(models.folder, exit_on_error=False) as engine:
        (line,) = await engine.index()
        assert "EXECUTION_ENV_PATH needs a process of the model's own (DESPINA_ISOLATION = process)" in line.reason


# --- Archives


def entry(name, kind=tarfile.REGTYPE, to=""):
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, to
    return about


def packed(path, *entries, content=b"x"):
    with tarfile.open(path, "w:gz") as made:
        for one in entries:
            if one.isreg():
                one.size = len(content)
            made.addfile(one, io.BytesIO(content) if one.isreg() else None)
    return path


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry("/tmp/despina-out")], "entry '/tmp/despina-out' names the absolute path '/tmp/despina-out'"),
        ([entry("../out")], "entry '../out' names the path '../out', which may leave it"),
        ([entry("a/../../out")], "which may leave it"),
        ([entry("a", LINK, "/etc/passwd")], "entry 'a' is a link to the absolute path '/etc/passwd'"),
        ([entry("a", LINK, "../out")], "entry 'a' is a link to '../out', which leaves it"),
        ([entry("a", LINK, "../inner2")], "which leaves it"),
        ([entry("d/a", LINK, "b/../../../out")], "which leaves it"),
        ([entry("a/b/up", LINK, "../.."), entry("out", LINK, "a/b/up/../x")], "entry 'out' is a link to"),
        ([entry("out", LINK, "a/b/up/../x"), entry("a/b/up", LINK, "../..")], "which leaves it"),
        ([entry("up", LINK, "."), entry("up/a", LINK, "x")], "entry 'up/a' is below a link"),
        ([entry("a", HARD, "/etc/passwd")], "names the absolute path '/etc/passwd'"),
        ([entry("a", HARD, "../inner.tar.gz")], "which may leave it"),
        ([entry("a", HARD, "nobody")], "which is no file before it"),
        ([entry("s", LINK, "../inner.tar.gz"), entry("a", HARD, "s")], "which is no file before it"),
        ([entry("a", tarfile.CHRTYPE)], "entry 'a' is no file, folder or link"),
        ([entry("a", tarfile.BLKTYPE)], "is no file, folder or link"),
        ([entry("a", tarfile.FIFOTYPE)], "is no file, folder or link"),
        ([entry("a"), entry("a/b")], "cannot be unpacked"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(entry.name for entry in value),
)
def test_entries_that_escape(tmp_path, entries, why):
    """They are refused, and nothing is written outside."""
    archive = packed(tmp_path / "inner.tar.gz", *entries)
    folder = tmp_path / "inner"
    folder.mkdir()
    with pytest.raises(InvalidArgument) as caught:
        unpack(archive, folder)
    assert why in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner", "inner.tar.gz"]
    assert not Path("/tmp/despina-out").exists()


def test_a_link_that_files_would_be_written_through(tmp_path):
    """A folder's place, taken by a link first: files come first, so the link has no place to be."""
    archive = packed(tmp_path / "a.tar.gz", entry("d", LINK, "/tmp"), entry("d/out"))
    (tmp_path / "inner").mkdir()
    with pytest.raises(InvalidArgument):
        unpack(archive, tmp_path / "inner")
    assert not Path("/tmp/despina-out").exists()


def test_what_may_be_in_an_archive(tmp_path):
    """Files with their modes but no special bits, folders, links of both kinds that stay inside, also to nowhere."""
    program = entry("./bin/program")
    program.mode = 0o6755
    entries = [
        entry("./", tarfile.DIRTYPE),
        program,
        entry("bin/same", HARD, "./bin/program"),
        entry("lib/deep/er/link", LINK, "../../../bin/program"),
        entry("nowhere", LINK, "not/there"),
        entry("twice"),
        entry("twice"),
        entry("empty", tarfile.DIRTYPE),
    ]
    archive = packed(tmp_path / "a.tar.gz", *entries, content=b"#!/bin/sh\n")
    folder = tmp_path / "inner"
    folder.mkdir()
    unpack(archive, folder)
    assert (folder / "bin/program").stat().st_mode & 0o7777 == 0o755
    assert (folder / "bin/same").samefile(folder / "bin/program")
    assert os.readlink(folder / "lib/deep/er/link") == "../../../bin/program"
    assert (folder / "lib/deep/er/link").read_bytes() == b"#!/bin/sh\n"
    assert (folder / "nowhere").is_symlink()
    assert (folder / "empty").is_dir()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00junk"])
def test_no_archive(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    (tmp_path / "inner").mkdir()
    with pytest.raises(InvalidArgument, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "inner")


def test_an_archive_that_ends_early(tmp_path):
    whole = packed(tmp_path / "a.tar.gz", entry("a"), content=os.urandom(1 << 16))
    whole.write_bytes(whole.read_bytes()[: 1 << 15])
    (tmp_path / "inner").mkdir()
    with pytest.raises(InvalidArgument, match="cannot be unpacked"):
        unpack(whole, tmp_path / "inner")
