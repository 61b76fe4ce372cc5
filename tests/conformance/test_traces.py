"""Traces beside the reference server's: the same settings, read and changed on both doors, and the same requests, must
give the same answers and files of the same objects."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.conformance.servers import HERE, asked_again, reference_script, running_despina, running_reference

OPTIONS = ("--trace-config=triton,file=trace.json", "--trace-config=rate=1000")
ALL, ONE = "/v2/trace/setting", "/v2/models/simple/trace/setting"

SETTINGS = [
    (ALL, None), (ONE, None), ("/v2/models/nope/trace/setting", None), ("/v2/models/nope/trace/setting", {}),
    *(
        (ALL, body)
        for body in (
            {"trace_level": "OFF"}, {"trace_level": ["OFF", "TIMESTAMPS"]}, {"trace_level": ["x"]},
            {"trace_level": [1]}, {"trace_level": []}, {"trace_level": None}, {"trace_rate": 5}, {"trace_rate": "x"},
            {"trace_rate": "5x"}, {"trace_rate": " 5"}, {"trace_rate": ""}, {"trace_rate": "4294967296"},
            {"trace_rate": ["5"]}, {"trace_rate": "0"}, {"trace_rate": None}, {"trace_count": "-2"},
            {"trace_count": "-1"}, {"trace_count": "2147483648"}, {"trace_count": "-99999999999"}, {"trace_count": 7},
            {"trace_count": "7"}, {"trace_count": None}, {"log_frequency": "x"}, {"log_frequency": "7"},
            {"log_frequency": None}, {"trace_file": "x"}, {"trace_mode": "opentelemetry"}, {"other": 1}, {}, [], 1,
            {"trace_level": ["TIMESTAMPS"], "trace_rate": "0"},
        )
    ),
    (ONE, {"trace_rate": "3"}), (ALL, {"trace_rate": "9", "trace_count": "5"}), (ONE, None),
    (ONE, {"trace_rate": None}), (ONE, None),
    (ONE, {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "2", "log_frequency": "1", "trace_count": "2"}),
]  # fmt: skip
GRPC_SETTINGS = [
    {}, {"trace_level": ["OFF", "TIMESTAMPS"]}, {"trace_level": []}, {"trace_rate": ["1", "2"]}, {"trace_rate": []},
    {"trace_rate": "x"}, {"trace_count": "-5"}, {"trace_count": ["1", "2"]}, {"trace_file": "x"}, {"other": "1"},
]  # fmt: skip


def ask(port, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, method="GET" if data is None else "POST")
    try:
        with urllib.request.urlopen(asked, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def converse(server):
    """What the server says to all of it."""
    said = [ask(server.http_port, path, body) for path, body in SETTINGS]
    tensor = {"shape": [1, 16], "datatype": "INT32", "data": list(range(16))}
    for index in range(5):
        body = {"id": f"r{index}", "inputs": [{"name": name, **tensor} for name in ("INPUT0", "INPUT1")]}
        said.append(ask(server.http_port, "/v2/models/simple/infer", body))
    said.append(ask(server.http_port, ONE))
    # A model's count that is used up makes the reference server refuse every later change for all models.
    said.append(ask(server.http_port, ONE, {"trace_count": None}))
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        for settings in GRPC_SETTINGS:
            for model in (None, "nope"):
                try:
                    answer = client.update_trace_settings(model, settings, as_json=True)
                except InferenceServerException as error:
                    answer = (error.status(), error.message())
                said.append(answer)
        inputs = [tritonclient.grpc.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for one in inputs:
            one.set_data_from_numpy(np.ones((1, 16), np.int32))
        all_levels = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "1", "trace_count": None}
        client.update_trace_settings("simple", all_levels)
        client.infer("simple", inputs, request_id="g1")
    return said


def files(folder):
    """The objects of a folder's trace files by the files' names. The reference server's threads race for their order,
    so that it is no part of the comparison."""
    return {path.name: sorted(objects(path), key=json.dumps) for path in folder.glob("trace.json*")}


def objects(path):
    """The objects of each file, without times."""
    return [
        {"moment": one["timestamps"][0]["name"]} if "timestamps" in one else one for one in json.loads(path.read_text())
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each server said, and the folder with its files, after it has stopped."""
    if reference_script() is None:
        pytest.skip("the reference server is not here: set DESPINA_REFERENCE_TRITON to the script that runs it")

    def told_by(run, folder):
        before = os.getcwd()
        os.chdir(folder)  # where a server writes its relative trace file
        try:
            with run(HERE / "models", folder, OPTIONS) as server:
                said = converse(server)
        finally:
            os.chdir(before)
        return said, folder

    def reference(folder):
        nonlocal expected
        expected = told_by(running_reference, folder)
        return expected[0], files(folder)

    expected = None
    ours = told_by(running_despina, tmp_path_factory.mktemp("despina"))
    asked_again(reference, (ours[0], files(ours[1])), tmp_path_factory.mktemp("reference"))
    return expected, ours


@pytest.mark.slow
def test_settings_are_answered_alike(both):
    """Goal: status, type and body of every read and change, on both doors."""
    (expected, _), (found, _) = both
    assert found == expected


def moments(path):
    """The times (ns) of each trace's moments by their names."""
    found = {}
    for one in json.loads(path.read_text()):
        for moment in one.get("timestamps", ()):
            found.setdefault(one["id"], {})[moment["name"]] = moment["ns"]
    return found


@pytest.mark.slow
def test_files_have_the_same_objects(both):
    """Goal: the same objects in the same files."""
    (_, reference), (_, despina) = both
    expected, found = files(reference), files(despina)
    assert sorted(found) == ["trace.json.0", "trace.json.1", "trace.json.2"]
    assert found == expected


@pytest.mark.slow
def test_moments_have_times_that_can_be(both):
    """Goal: a request's moments follow each other in both servers' files as they do in time."""
    http = ["HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END"]
    http += ["COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END"]
    for _, folder in both:
        files = sorted(folder.glob("trace.json*"))
        for times in (times for path in files for times in moments(path).values()):
            in_order = [times[name] for name in http if name in times]
            assert len(in_order) >= 7
            assert in_order == sorted(in_order)
            assert times["COMPUTE_START"] < times["INFER_RESPONSE_COMPLETE"]
            if "HTTP_SEND_START" in times:
                assert times["INFER_RESPONSE_COMPLETE"] <= times["HTTP_SEND_START"] <= times["HTTP_SEND_END"]
