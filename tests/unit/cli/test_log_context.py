"""What lines of the log say of the requests that they concern: a real server, real clients, models here and apart."""

from __future__ import annotations

import http.client
import logging
import time

import numpy as np
import orjson
import pytest
import tritonclient.grpc as triton_grpc
from despina.engine.port.concerns import REQUESTS_MAX, about, concern_of, concerning, of_model
from despina.frontends.cli.log_format import LineFormatter
from despina.frontends.log_settings import LogSettings
from despina.schema.inference import InferenceRequest

from tests import in_process
from tests.unit.cli.child import CONFIG, WAIT_S, Serving

MODEL = """
import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        pb_utils.Logger.log_warn("saw " + " ".join(request.request_id() for request in requests))
        pb_utils.Logger.log_verbose("looks closer")
        inputs = [pb_utils.get_input_tensor_by_name(request, "SECONDS").as_numpy() for request in requests]
        if min(float(each.min()) for each in inputs) < 0:
            raise ValueError("no negative numbers")
        return [pb_utils.InferenceResponse([pb_utils.Tensor("TWICE", each * 2)]) for each in inputs]
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("here", "apart", "quiet"):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(MODEL)
        config = CONFIG.replace(in_process.PARAMETER, "") if name == "apart" else CONFIG
        (folder / name / "config.pbtxt").write_text(config)
    return folder


@pytest.fixture(scope="module")
def served(repository):
    options = ("--log-format=json", "--log-model=here,1", "--log-model=quiet,error")
    with Serving(f"--model-repository={repository}", *options, "--allow-metrics=false") as server:
        server.http, server.grpc = server.port("HTTPService"), server.port("GRPCInferenceService")
        yield server


def facts(server, where):
    """The first line of the log for which `where(facts)` is true."""
    deadline = time.monotonic() + WAIT_S
    while True:
        for line in list(server.lines):
            if line.startswith("{"):
                found = orjson.loads(line)
                if where(found):
                    return found
        assert time.monotonic() < deadline, "\n".join(server.lines)
        time.sleep(0.02)


def ask(port, model, id, value=1.0, headers=None):
    """The status of an answer, and the address that was asked from."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    body = {"id": id, "inputs": [{"name": "SECONDS", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}
    connection.request("POST", f"/v2/models/{model}/infer", orjson.dumps(body), headers or {})
    reply = connection.getresponse()
    reply.read()
    peer = "{}:{}".format(*connection.sock.getsockname())
    connection.close()
    return reply.status, peer


@pytest.mark.parametrize("model", ["here", "apart"])
def test_lines_of_a_model(served, model):
    """Goal: what a model logs while it executes names request, model, version, trace and caller; in process or not."""
    status, peer = ask(served.http, model, f"{model}-1", headers={"traceparent": PARENT})
    assert status == 200
    found = facts(served, lambda facts: facts["message"] == f"saw {model}-1")
    shown = {name: found.get(name) for name in ("level", "model", "version", "request_id", "trace_id", "caller")}
    assert shown == {
        "level": "WARNING",
        "model": model,
        "version": "1",
        "request_id": f"{model}-1",
        "trace_id": TRACE,
        "caller": peer,
    }
    assert found["file"] == "model.py"


@pytest.mark.parametrize("model", ["here", "apart"])
def test_lines_about_what_failed(served, model):
    """Goal: so does the traceback of a model that raised, asked over gRPC."""
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}")
    tensor = triton_grpc.InferInput("SECONDS", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.full((1, 1), -1, np.float32))
    with pytest.raises(triton_grpc.InferenceServerException):
        client.infer(model, [tensor], request_id=f"{model}-bad")
    client.close()
    found = facts(
        served,
        lambda facts: (
            facts.get("request_id") == f"{model}-bad"
            and "ValueError: no negative" in facts.get("exception", facts["message"])
        ),
    )
    assert (found["level"], found["model"], found["version"]) == ("ERROR", model, "1")
    assert found["caller"].startswith("127.0.0.1:")


def test_lines_about_requests_that_were_refused(served):
    """Goal: at a model's own verbose level: refused before it was executed, with model and caller."""
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=WAIT_S)
    connection.request("POST", "/v2/models/here/infer", b'{"inputs": 5}')
    assert connection.getresponse().status >= 400
    peer = "{}:{}".format(*connection.sock.getsockname())
    connection.close()
    found = facts(served, lambda facts: "Infer failed" in facts["message"])
    assert (found["level"], found["model"], found["caller"]) == ("DEBUG", "here", peer)


def test_levels_of_models(served):
    """Goal: each model's lines by its own level, everybody else's by the server's."""
    assert ask(served.http, "here", "deep-1")[0] == 200
    facts(served, lambda facts: facts["message"] == "looks closer" and facts["model"] == "here")
    assert ask(served.http, "quiet", "quiet-1")[0] == 200
    assert ask(served.http, "quiet", "quiet-2", value=-1.0)[0] != 200
    facts(served, lambda facts: facts.get("request_id") == "quiet-2" and facts["level"] == "ERROR")
    assert ask(served.http, "apart", "last")[0] == 200
    facts(served, lambda facts: facts["message"] == "saw last")
    everything = [orjson.loads(line) for line in served.lines if line.startswith("{")]
    assert not [each for each in everything if each.get("model") == "quiet" and each["level"] != "ERROR"]
    assert not [each for each in everything if each.get("model") == "apart" and each["level"] == "DEBUG"]
    loaded = [each["model"] for each in everything if each["message"].startswith("successfully loaded")]
    assert sorted(loaded) == ["apart", "here"]


def change(server, **members):
    """Status and answer of a change of the log's settings."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=WAIT_S)
    connection.request("POST", "/v2/logging", orjson.dumps(members))
    reply = connection.getresponse()
    found = orjson.loads(reply.read())
    connection.close()
    return reply.status, found


def test_levels_of_models_changed_while_it_runs(served):
    """Goal: one model's lines more, or again as everybody's, without a restart; what cannot be changes nothing."""
    assert change(served, log_models={"quiet": "1"})[1]["log_models"] == {"here": "1", "quiet": "1"}
    assert ask(served.http, "quiet", "loud now")[0] == 200
    facts(served, lambda facts: facts["message"] == "looks closer" and facts["model"] == "quiet")
    status, answer = change(served, log_models={"here": "loud"})
    assert status == 400
    assert "got: loud" in answer["error"]
    assert change(served, log_models={"quiet": "error", "here": None})[1]["log_models"] == {"quiet": "error"}
    assert ask(served.http, "here", "not deep")[0] == 200
    facts(served, lambda facts: facts["message"] == "saw not deep")
    last = [orjson.loads(line) for line in served.lines if line.startswith("{")]
    assert not [each for each in last if each.get("request_id") == "not deep" and each["level"] == "DEBUG"]


class Job:
    """As much of one as is looked at."""

    ledger = object()
    version_text = "3"

    def __init__(self, id, told=None):
        self.request = InferenceRequest("m", {}, id=id)
        self.told = told


class Call:
    peer = "10.0.0.1:4711"
    traceparent = PARENT

    def answer(self, job):
        raise NotImplementedError


def record(level=logging.WARNING, **extra):
    made = logging.LogRecord("despina.x", level, "/src/x.py", 1, "it went wrong", (), None)
    made.__dict__.update(extra)
    return made


def test_text_of_one_and_of_several():
    """Goal: behind the message and in its quotes; of many requests so many ids as a line can have."""
    write = LineFormatter(LogSettings()).format
    one = write(record(**concerning([Job("a", Call().answer)])))
    assert one.endswith(f'] "it went wrong [model m, version 3, request id a, trace {TRACE}, caller 10.0.0.1:4711]"')
    many = write(record(**concerning([Job(str(n)) for n in range(REQUESTS_MAX + 5)])))
    assert "[model m, version 3, request ids 0 1 2 " in many
    assert many.endswith(' and 5 more]"')
    assert write(record(**of_model("m", 3))).endswith('"it went wrong"')
    assert write(record(**about("m"))).endswith('"it went wrong [model m]"')


def test_json_of_several():
    """Goal: one object a line, with a list of what is known of each."""
    line = LineFormatter(LogSettings(format="json")).format(
        record(**concerning([Job("a", Call().answer), Job("b\udcff")]))
    )
    found = orjson.loads(line)
    assert "\n" not in line
    assert found["requests"] == [
        {"request_id": "a", "trace_id": TRACE, "caller": "10.0.0.1:4711"},
        {"request_id": "b\ufffd"},
    ]
    assert (found["model"], found["version"]) == ("m", "3")


def test_who_cannot_be_asked_is_left_out():
    """Goal: a line is written whatever a caller's object does."""

    class Broken:
        @property
        def request(self):
            raise RuntimeError("gone")

    assert concern_of(record(**concerning([Broken()]))).requests == ()
    assert concern_of(record()) is None


@pytest.mark.parametrize("text", ["m", "m,", ",info", "m,loud", "m,-1", "m,²"])
def test_levels_that_cannot_be(text, capsys):
    """Goal: a wrong level is refused with the form that it should have."""
    from despina.frontends.cli.main import run

    assert run(["serve", "--model-repository=x", f"--log-model={text}"]) == 1
    assert "--log-model option format is" in capsys.readouterr().err
