"""Texts that UTF-8 cannot have, from models, clients and file names: what can be said of them is said everywhere."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import urllib.error
import urllib.request
from functools import partial

import despina
import pytest
import trio
from despina.engine.port.settings import TraceSettings
from despina.frontends.cli.log_format import configure_logging
from despina.frontends.http import HttpSettings, serve_http
from despina.frontends.log_settings import LogSettings

CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: {decoupled} }}
input [{{ name: "IN" data_type: TYPE_STRING dims: [1] }}]
output [{{ name: "OUT" data_type: TYPE_STRING dims: [1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""
PLAIN = r"""
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        text = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy().item().decode()
        pb_utils.Logger.log_error("said \udc80 " + text)
        if text == "raise":
            raise RuntimeError("a\udc80b")
        if text == "error":
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError("a\udc80b"))]
        given = requests[0].parameters().encode()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([given], object))])]
"""
STREAM = r"""
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            answer = pb_utils.InferenceResponse(error=pb_utils.TritonError("a\udc80b"))
            request.get_response_sender().send(answer, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
BROKEN = 'raise ValueError("a\\udc80b")\n'


@pytest.fixture
async def ask(request, tmp_path, nursery):
    """`await ask(path, document)` of a server with these models gives status and body."""
    where = {"python": {"isolation": getattr(request, "param", "none")}}
    models = tmp_path / "models"
    for name, source in (("plain", PLAIN), ("stream", STREAM), ("broken", BROKEN)):
        (models / name / "1").mkdir(parents=True)
        (models / name / "config.pbtxt").write_text(CONFIG.format(decoupled=str(name == "stream").lower()))
        (models / name / "1" / "model.py").write_text(source)
    os.mkdir(os.fsencode(models) + b"/not\xfftext")
    os.mkdir(os.fsencode(models / "plain") + b"/not\xfftext")
    trace = TraceSettings(level=["TIMESTAMPS", "TENSORS"], rate=1, file=str(tmp_path / "trace.json"))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def call(path, document):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/{path}", body, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    async with despina.open_engine(
        models, trace=trace, exit_on_error=False, strict_readiness=False, backend_config=where
    ) as engine:
        await nursery.start(partial(serve_http, engine, HttpSettings(), sockets=[listening]))
        yield partial(trio.to_thread.run_sync, call)
        nursery.cancel_scope.cancel()


def one_text(text):
    return {"inputs": [{"name": "IN", "datatype": "BYTES", "shape": [1], "data": [text]}], "id": "é"}


@pytest.mark.parametrize("ask", ["none", "process"], indirect=True)
@pytest.mark.parametrize("text", ["raise", "error"])
async def test_a_models_error(ask, text):
    """Its text reaches the client of `infer` and of `generate` with the replacement character, as UTF-8."""
    for path, document in (("infer", one_text(text)), ("generate", {"IN": text})):
        status, body = await ask(f"models/plain/{path}", document)
        assert status >= 400
        assert "a\ufffdb" in json.loads(body.decode())["error"]


async def test_a_streams_error(ask):
    """The same in server-sent events, which then end."""
    _, body = await ask("models/stream/generate_stream", {"IN": "x"})
    assert json.loads(body.decode().removeprefix("data: ")) == {"error": "a\ufffdb"}


async def test_why_a_model_did_not_load(ask):
    """In the index, and in the answer to a load; what no client can name is not listed."""
    _, body = await ask("repository/index", {})
    states = {entry["name"]: entry for entry in json.loads(body.decode())}
    assert set(states) == {"plain", "stream", "broken"}
    assert "a\ufffdb" in states["broken"]["reason"]


async def test_a_parameter_of_stray_bytes(ask):
    """A parameter that is called `data` may hold them, as tensors do: the model gets text."""
    document = json.dumps({**one_text("x"), "parameters": {"data": "?"}}).encode().replace(b"?", b"a\xffb")
    _, body = await ask("models/plain/infer", document)
    assert json.loads(json.loads(body.decode())["outputs"][0]["data"][0]) == {"data": "a\ufffdb"}
    _, body = await ask("models/plain/generate", b'{"IN": "x", "data": "a\xffb"}')
    assert json.loads(json.loads(body.decode())["OUT"]) == {"data": "a\ufffdb"}


async def test_traces(tmp_path):
    """An id that a caller in this process gives is in the file as UTF-8."""
    (tmp_path / "models" / "plain" / "1").mkdir(parents=True)
    (tmp_path / "models" / "plain" / "config.pbtxt").write_text(CONFIG.format(decoupled="false"))
    (tmp_path / "models" / "plain" / "1" / "model.py").write_text(PLAIN)
    trace = TraceSettings(level=["TIMESTAMPS", "TENSORS"], rate=1, file=str(tmp_path / "trace.json"))
    async with despina.open_engine(tmp_path / "models", trace=trace) as engine:
        await engine.infer("plain", {"IN": [b"x"]}, request_id="a\udc80b")
    about = json.loads((tmp_path / "trace.json").read_text())[0]
    assert about["request_id"] == "a\ufffdb"


@pytest.mark.parametrize("escape", ["0", "1"])
def test_logs(tmp_path, monkeypatch, escape):
    """Each line is in the file, quoted or not, with its traceback; none ends on stderr as a problem of the log's."""
    monkeypatch.setenv("TRITON_SERVER_ESCAPE_LOG_MESSAGES", escape)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    said = []
    monkeypatch.setattr(logging.Handler, "handleError", lambda self, record: said.append(record))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(LogSettings(file=str(tmp_path / "log")))
        try:
            raise ValueError("a\udc80b")
        except ValueError:
            logging.getLogger("despina.test").exception("said \ud83d\ude00 é")
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "said \U0001f600 é" in text
    assert "ValueError: a\ufffdb" in text
    assert said == []


def test_a_console_of_few_letters(monkeypatch, capsys):
    """What a console's encoding lacks is written in escapes; the line is not lost."""
    import io

    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging(LogSettings())
        monkeypatch.setattr(sys, "stdout", console)
        logging.getLogger("despina.test").info("é\udc80")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    assert r'"\xe9\ufffd"' in console.buffer.getvalue().decode()
