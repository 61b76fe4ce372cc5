"""`despina models` and `despina info`: a running server's repository, and what is installed here."""

from __future__ import annotations

import importlib.metadata

import orjson
import pytest

from tests.unit.cli.child import MODEL, Serving, add_model, ask


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The two doors of a server in explicit mode that has one model loaded of two."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("sleeper", "other"):
        add_model(folder, name, MODEL)
    options = ["--model-control-mode=explicit", "--load-model=sleeper", "--allow-metrics=false"]
    with Serving(str(folder), *options) as serving:
        yield f"http://127.0.0.1:{serving.port('HTTPService')}", f"grpc://127.0.0.1:{serving.port('GRPC.*')}"


@pytest.mark.parametrize("door", [0, 1])
def test_list_load_unload(server, door):
    """Goal: what there is, loaded and unloaded by name, over either protocol; lines that `grep` and `awk` read."""
    place = ["--url", server[door]]

    def states():
        done = ask("models", "list", *place)
        assert done.returncode == 0, done.stderr
        header, *rows = [line.split() for line in done.stdout.splitlines()]
        assert header == ["MODEL", "VERSION", "STATE", "REASON"]
        return {row[0]: row[2] for row in rows}

    assert states()["sleeper"] == "READY"
    assert states()["other"] != "READY"
    done = ask("models", "load", "other", *place)
    assert (done.returncode, done.stdout) == (0, "loaded other\n")
    assert states() == {"sleeper": "READY", "other": "READY"}
    done = ask("models", "unload", "other", *place)
    assert (done.returncode, done.stdout) == (0, "unloading other\n")
    assert orjson.loads(ask("models", "list", "--json", *place).stdout)[0]["name"] in ("other", "sleeper")


@pytest.mark.parametrize("door", [0, 1])
def test_show(server, door):
    """Goal: tensors, scheduling and what was counted."""
    place = ["--url", server[door]]
    assert ask("infer", "sleeper", "-i", "SECONDS=0", *place).returncode == 0
    lines = ask("models", "show", "sleeper", *place).stdout.splitlines()
    assert lines[0] == "sleeper: python, batches of up to 64, dynamic batching"
    assert ["input", "SECONDS", "FP32", "-1x1"] in [line.split() for line in lines]
    assert ["output", "TWICE", "FP32", "-1x1"] in [line.split() for line in lines]
    shown = orjson.loads(ask("models", "show", "sleeper", "--json", *place).stdout)
    assert shown["config"]["max_batch_size"] == 64
    assert shown["metadata"]["inputs"][0]["name"] == "SECONDS"
    assert int(shown["statistics"][0]["inference_count"]) >= 1


def test_a_configuration_of_ones_own(server, tmp_path):
    """Goal: --config takes the place of the repository's; a file that is not there is named."""
    place = ["--url", server[0]]
    config = orjson.loads(ask("models", "show", "sleeper", "--json", *place).stdout)["config"]
    (tmp_path / "config.json").write_bytes(orjson.dumps({**config, "max_batch_size": 7, "dynamic_batching": {}}))
    assert ask("models", "load", "sleeper", "--config", f"{tmp_path}/config.json", *place).returncode == 0
    assert "batches of up to 7" in ask("models", "show", "sleeper", *place).stdout
    assert ask("models", "load", "sleeper", *place).returncode == 0
    done = ask("models", "load", "sleeper", "--config", f"{tmp_path}/gone.json", *place)
    assert (done.returncode, done.stderr) == (1, f"error: --config {tmp_path}/gone.json: No such file or directory\n")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_mistyped_model(server, verb):
    """Goal: the nearest name is suggested; servers themselves take the unload of nothing for done."""
    done = ask("models", verb, "sleeperr", "--url", server[0])
    assert done.returncode == 1
    assert done.stderr.endswith("; did you mean 'sleeper'?\n")
    done = ask("models", "lode", "sleeper")
    assert "No such command 'lode'." in done.stderr


@pytest.mark.interpreted
def test_info():
    """Goal: versions, devices, every backend with what it is."""
    text = ask("info").stdout
    assert importlib.metadata.version("numpy") in text
    assert importlib.metadata.version("trio") in text
    found = orjson.loads(ask("info", "--json").stdout)
    assert found["versions"]["its code"] == "interpreted"  # as in every checkout
    backends = {item["name"]: item for item in found["backends"]}
    assert backends["onnxruntime"]["available"]
    assert backends["onnxruntime"]["is"] == f"onnxruntime {importlib.metadata.version('onnxruntime')}"
    assert {"python", "pytorch", "tensorflow", "openvino", "tensorrt", "trees"} <= set(backends)
    assert {item["name"] for item in found["caches"]} == {"local", "redis"}


def test_info_of_what_is_missing(monkeypatch):
    """Goal: what one would install. Method: metadata of two distributions is hidden."""
    version = importlib.metadata.version

    def hidden(name):
        if name in ("openvino", "redis", "xgboost-cpu", "xgboost", "lightgbm", "scikit-learn", "treelite"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", hidden)
    lines = ask("info").stdout.splitlines()
    assert any("openvino is not installed (pip install 'despina[openvino]')" in line for line in lines)
    found = orjson.loads(ask("info", "--json").stdout)
    unavailable = {item["name"] for part in ("backends", "caches") for item in found[part] if not item["available"]}
    assert {"openvino", "trees", "fil", "redis"} <= unavailable
    assert any("redis is not installed (pip install 'despina[redis]')" in line for line in lines)
