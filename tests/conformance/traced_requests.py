"""Requests for servers that send their traces to a collector."""

from __future__ import annotations

import asyncio
import random

import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from tests import in_process
from tests.conformance.inputs import sums
from tests.conformance.wire import WAIT_S, wire_models

KINDS = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}
DOORS = ["http", "grpc"]
CONTEXTS = {
    "sampled": ("00-{trace}-{span}-01", True),
    "not sampled": ("00-{trace}-{span}-00", True),
    "other flags": ("00-{trace}-{span}-ff", True),
    "a later version": ("01-{trace}-{span}-01-more", True),
    "version ff": ("ff-{trace}-{span}-01", False),
    "too much": ("00-{trace}-{span}-01-more", False),
    "no trace": ("00-" + "0" * 32 + "-{span}-01", False),
    "no span": ("00-{trace}-" + "0" * 16 + "-01", False),
    "short": ("00-{trace}-12-01", False),
    "no hexadecimal": ("00-{trace}-{span}-0g", False),
    "empty": ("", False),
}
"""By names: a context's form, and whether it is valid."""

CONTEXT_CONFIG = """
name: "context" backend: "python" max_batch_size: 0
input [ { name: "X" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "CONTEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
CONTEXT_MODEL = '''
"""Tells in which trace it executes."""
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        texts = [np.array([request.trace().get_context() or ""], np.object_) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("CONTEXT", text)]) for text in texts]
'''


def traced_models(folder):
    """simple, nap, count, and context, which tells in which trace it executes."""
    models = wire_models(folder)
    (models / "context" / "1").mkdir(parents=True)
    (models / "context" / "config.pbtxt").write_text(CONTEXT_CONFIG + in_process.PARAMETER)
    (models / "context" / "1" / "model.py").write_text(CONTEXT_MODEL)
    return models


def options(url, *more, rate=1, delay_ms=20):
    """Everything is traced, unless `rate` says otherwise, and sent soon."""
    settings = ["mode=opentelemetry", "level=TIMESTAMPS", f"rate={rate}", f"opentelemetry,url={url}"]
    settings += [f"opentelemetry,bsp_schedule_delay={delay_ms}", *more]
    return [f"--trace-config={setting}" for setting in settings]


def caller(flags="01"):
    """The context of some span, which nobody else has: traceparent, trace id, span id."""
    trace, span = f"{random.getrandbits(128) or 1:032x}", f"{random.getrandbits(64) or 1:016x}"
    return f"00-{trace}-{span}-{flags}", trace, span


def fresh():
    """An id for a request."""
    return f"{random.getrandbits(64):x}"


def address(server, kind):
    return f"127.0.0.1:{server.http_port if kind.startswith('http') else server.grpc_port}"


def infer(server, kind, model="simple", inputs=None, **named):
    """One request of that client."""
    module = KINDS[kind]
    arguments = (model, inputs or sums(module))

    async def ask():
        async with module.InferenceServerClient(address(server, kind)) as client:
            return await client.infer(*arguments, **named)

    if kind.endswith("aio"):
        return asyncio.run(asyncio.wait_for(ask(), WAIT_S))
    with module.InferenceServerClient(address(server, kind)) as client:
        return client.infer(*arguments, **named)


def mark(server, collector):
    """Returns when all that was traced before has come: spans are sent in order."""
    parent, _, _ = caller()
    infer(server, "http", request_id=(request_id := fresh()), headers={"traceparent": parent})
    collector.of_request(request_id)
