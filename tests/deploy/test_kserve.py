"""The manifests of examples/deploy/kserve: the command of the runtime over what KServe's storage initialiser leaves in
/mnt/models, KServe's own clients before it, and its own reading of the manifests."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.conformance.cloud_probes import wait_until_listening
from tests.conformance.servers import free_ports, stop

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "examples" / "deploy" / "kserve"
ADDSUB = ROOT / "examples" / "models" / "addsub"


def kserve_python():
    """A Python that has kserve, or None: DESPINA_KSERVE_PYTHON, or this one. It and ours pin different packages."""
    named = os.environ.get("DESPINA_KSERVE_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("kserve") else None)


def manifest(name):
    return yaml.safe_load((MANIFESTS / name).read_text())


def container():
    (only,) = manifest("runtime.yaml")["spec"]["containers"]
    return only


# --- What lies in /mnt/models


def repository(place):
    shutil.copytree(ADDSUB, place / "addsub")
    return "addsub"


def model(place):
    shutil.copytree(ADDSUB, place, dirs_exist_ok=True)
    return "addsub"  # its config.pbtxt says so


def nameless_model(place):
    shutil.copytree(ADDSUB, place, dirs_exist_ok=True)
    config = place / "config.pbtxt"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.startswith("name")))
    return "mine"


def versions(place):
    for number in ("1", "3"):
        shutil.copytree(ADDSUB / "1", place / number)
    return "mine"


def file(place):
    shutil.copy(ADDSUB / "1" / "model.onnx", place / "sums.onnx")
    return "mine"


LAYOUTS = (repository, model, nameless_model, versions, file)


@contextlib.contextmanager
def pod(folder, lay_out):
    """The runtime's container as KServe would start it for the InferenceService `mine`: the ports by the numbers that
    the manifest has for them, and the model's name. Not a container: the same command in this machine's root."""
    place = folder / "models"
    place.mkdir()
    name = lay_out(place)
    http, grpc, metrics = free_ports(3)
    ports = {"8080": http, "9000": grpc, "8002": metrics}
    spec = container()
    arguments = [argument.replace("{{.Name}}", "mine").replace("/mnt/models", str(place)) for argument in spec["args"]]
    arguments = [
        f"{option}={ports[value]}" if option.endswith("-port") else argument
        for argument in arguments
        for option, _, value in [argument.partition("=")]
    ]
    command = [str(Path(sys.executable).parent / spec["command"][0]), *spec["command"][1:], *arguments]
    log = folder / "log"
    environment = {**os.environ, "TMPDIR": str(folder), "DESPINA_LAME_DUCK_SECS": "0"}
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [argument for argument in command if not argument.startswith("--lame-duck-secs")],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
    try:
        wait_until_listening(http)
        yield ports, name
    finally:
        stop(child)
    assert child.returncode == 0, log.read_text()
    assert [path.name for path in folder.glob("despina-single-*")] == []


@pytest.mark.parametrize("lay_out", LAYOUTS, ids=[lay_out.__name__ for lay_out in LAYOUTS])
def test_what_the_storage_initialiser_leaves(lay_out, tmp_path):
    """Goal: a repository, a model's folder, its versions alone and a bare file are all served, under the name of the
    InferenceService or the one that config.pbtxt has. Method: the probes of the manifest, then an inference."""
    with pod(tmp_path, lay_out) as (ports, name):
        url = f"http://127.0.0.1:{ports['8080']}"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container()[probe]["httpGet"]
            assert asked["port"] == 8080
            with urllib.request.urlopen(url + asked["path"], timeout=10) as answer:
                assert answer.status == 200
        body = json.dumps({"inputs": ROWS}).encode()
        with urllib.request.urlopen(f"{url}/v2/models/{name}/infer", body, timeout=10) as answer:
            said = json.loads(answer.read())
        assert (said["model_name"], said["outputs"][0]["data"]) == (name, [2] * 16)
        assert said["model_version"] == ("3" if lay_out is versions else "1")
        annotations = manifest("runtime.yaml")["spec"]["annotations"]
        page = f"http://127.0.0.1:{ports[annotations['prometheus.kserve.io/port']]}{annotations['prometheus.kserve.io/path']}"
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert f'nv_inference_request_success{{model="{name}"'.encode() in answer.read()


ROWS = [{"name": name, "shape": [1, 16], "datatype": "INT32", "data": [1] * 16} for name in ("INPUT0", "INPUT1")]


@pytest.mark.skipif(
    kserve_python() is None, reason="kserve is not installed (DESPINA_KSERVE_PYTHON: a Python that has it)"
)
def test_kserves_own_clients(tmp_path):
    """Goal: KServe's package reads the manifests without a loss, and its clients find the contract of a v2 model server
    fulfilled: live, ready, model ready, inference by JSON, by binary tensors and by gRPC, an unknown model refused."""
    with pod(tmp_path, nameless_model) as (ports, name):
        done = subprocess.run(
            [
                kserve_python(),
                Path(__file__).parent / "kserve_client.py",
                MANIFESTS,
                *map(str, (ports["8080"], ports["9000"], name)),
            ],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    files = [f"manifest {name}" for name in ("inference-service-grpc.yaml", "inference-service.yaml", "runtime.yaml")]
    assert done.stdout.splitlines() == [*files, "rest json", "rest binary", "grpc"]


def test_manifests_agree():
    """Goal: services name the runtime, and formats, protocols, ports and times that it has."""
    runtime = manifest("runtime.yaml")
    options = dict(argument.partition("=")[::2] for argument in container()["args"])
    stopping = float(options["--lame-duck-secs"]) + float(options["--exit-timeout-secs"])
    for name in ("inference-service.yaml", "inference-service-grpc.yaml"):
        predictor = manifest(name)["spec"]["predictor"]
        asked = predictor["model"]
        assert asked["runtime"] == runtime["metadata"]["name"]
        assert asked["modelFormat"]["name"] in {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
        assert asked["protocolVersion"] in runtime["spec"]["protocolVersions"]
        assert stopping < predictor["terminationGracePeriodSeconds"]
    assert str(asked["ports"][0]["containerPort"]) == options["--grpc-port"]
    assert str(container()["ports"][0]["containerPort"]) == options["--http-port"]
    mounted = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounted == {volume["name"] for volume in runtime["spec"]["volumes"]}
