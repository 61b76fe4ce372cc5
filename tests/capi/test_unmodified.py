"""Binaries of NVIDIA's own on our library, as the wheel nvidia-pytriton has them: none of it is changed, or kept here.

Where they are: `DESPINA_PYTRITON` names the folder that the wheel is installed in, else this environment has it.
`pip install --target FOLDER nvidia-pytriton` makes such a folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import despina
import numpy as np
import pytest
import trio

from tests.capi.compiling import MODELS

CORE = "libtritonserver-*.so"


def wheel():
    given = os.environ.get("DESPINA_PYTRITON")
    if given:
        return Path(given)
    found = importlib.util.find_spec("pytriton")
    return None if found is None or found.origin is None else Path(found.origin).parents[1]


@pytest.fixture(scope="module")
def tree(native, tmp_path_factory):
    """The wheel's files where they expect each other, with our library in the place of their core."""
    site = wheel()
    if site is None or not (site / "nvidia_pytriton.libs").is_dir():
        pytest.skip("the wheel nvidia-pytriton is not at hand: DESPINA_PYTRITON names the folder it is installed in")
    folder = tmp_path_factory.mktemp("nvidia")
    libraries = folder / "nvidia_pytriton.libs"
    libraries.mkdir()
    for library in (site / "nvidia_pytriton.libs").iterdir():
        (libraries / library.name).symlink_to(library)
    (core,) = libraries.glob(CORE)
    core.unlink()
    core.symlink_to(native / "lib" / "libtritonserver.so")
    server = folder / "pytriton" / "tritonserver"
    shutil.copytree(
        site / "pytriton" / "tritonserver", server, symlinks=True, ignore=shutil.ignore_patterns("3.*", "lib*.a")
    )
    stub = site / "pytriton" / "tritonserver" / "python_backend_stubs" / f"3.{sys.version_info.minor}"
    if stub.is_dir():
        shutil.copy(stub / "triton_python_backend_stub", server / "backends" / "python")
    for program in (server / "bin" / "tritonserver", server / "backends" / "python" / "triton_python_backend_stub"):
        program.chmod(0o755)
    return server


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def until_said(process, log, words):
    deadline = time.monotonic() + 60
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.fixture
def server(tree, tmp_path):
    """NVIDIA's `tritonserver`, its doors and command line, over our engine."""
    ports = free_ports(3)
    doors = [f"--{door}-port={port}" for door, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    doors += [f"--{door}-address=127.0.0.1" for door in ("http", "grpc", "metrics")]
    more = ["--model-control-mode=explicit", "--load-model=identity", "--backend-config=python,isolation=none"]
    command = [str(tree / "bin" / "tritonserver"), f"--model-repository={MODELS}", *doors, *more]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={})
    yield ports, process, tmp_path / "log"
    process.kill()
    process.wait()


async def test_nvidias_server_runs_on_our_library(server):
    """Goal: their HTTP, gRPC and metrics doors start over our engine, and their own clients get right answers."""
    import tritonclient.grpc
    import tritonclient.http

    (http, grpc, metrics), process, log = server
    await trio.to_thread.run_sync(until_said, process, log, "Started Metrics Service")
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    for module, port in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
        client = module.InferenceServerClient(f"127.0.0.1:{port}")
        assert client.is_server_ready()
        given = module.InferInput("INPUT0", [2, 4], "FP32")
        given.set_data_from_numpy(values)
        np.testing.assert_array_equal(client.infer("identity", [given]).as_numpy("OUTPUT0"), values)
        with pytest.raises(Exception, match="Request for unknown model: 'nobody' is not found"):
            client.get_model_metadata("nobody")
        client.close()
    with socket.create_connection(("127.0.0.1", metrics)) as page:
        page.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = page.makefile("rb").read()
    assert b'nv_inference_count{model="identity",version="1"} 4' in text
    process.terminate()
    assert await trio.to_thread.run_sync(process.wait, 30) == 0, log.read_text()


async def test_nvidias_cache_in_our_process(tree):
    """Goal: their local cache answers equal requests once it has an answer."""
    config = {"local": {"size": "1048576"}}
    from despina.backends.native import native_cache

    opener = native_cache("local", str(tree / "caches"))
    cached = (MODELS / "identity" / "config.pbtxt").read_text() + "response_cache { enable: true }"
    async with despina.open_engine(
        MODELS, model_control_mode="explicit", cache_config=config, caches={"local": opener}
    ) as engine:
        from despina.schema.config_json import config_to_json
        from despina.schema.model_config import parse_config

        text = config_to_json(parse_config(cached.encode(), source="test")).decode()
        await engine.load("identity", config=text)
        with trio.fail_after(20):
            while engine.statistics("identity")[0].inference_stats.cache_hit.count == 0:
                await engine.infer("identity", {"INPUT0": np.ones((1, 4), np.float32)})


@pytest.fixture
def first_on_path(tmp_path, monkeypatch):
    """An environment that consists of what lies beside the wheel: the stub takes its packages, numpy 1 among them, from
    that of the first `python3` on the PATH, and from nowhere else."""
    packages = tmp_path / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.parent.mkdir(parents=True)
    packages.symlink_to(wheel().resolve())
    (tmp_path / "bin").mkdir()
    base = Path(sys.base_prefix, "bin")
    (tmp_path / "bin" / "python3").symlink_to(base / "python3")
    (tmp_path / "pyvenv.cfg").write_text(f"home = {base}\n")
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_nvidias_python_backend_loads_and_answers(tree, first_on_path, tmp_path, isolation):
    """Goal: their Python backend loads a model in its stub process, and answers: from our process, and from one of its
    own."""
    from despina.backends.native import NativeBackend

    shutil.copytree(MODELS / "identity", tmp_path / "models" / "identity")
    with (tmp_path / "models" / "identity" / "config.pbtxt").open("a") as config:
        config.write(f'parameters {{ key: "native_isolation" value {{ string_value: "{isolation}" }} }}')
    async with despina.open_engine(
        tmp_path / "models",
        backends={"python": NativeBackend("python")},
        backend_directory=str(tree / "backends"),
        backend_config={"python": {"shm-default-byte-size": "1048576"}},
    ) as engine:
        for size in (1, 3):
            given = np.full((size, 4), size, np.float32)
            result = await engine.infer("identity", {"INPUT0": given})
            np.testing.assert_array_equal(result["OUTPUT0"], given)
