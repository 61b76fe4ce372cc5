"""SIGTERM with everything in flight at one time: all is answered, the process ends well and soon."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conformance.servers import free_ports, wait_until_live
from tests.conformance.wire import connect, read_to_end, wire_models

PAUSE_MS = 700
STREAMS = 4
CALLS = 16


def generate(port):
    """An event stream that gives its second answer after the pause; the socket once its first one is there."""
    body = json.dumps({"N": PAUSE_MS}).encode()
    head = b"POST /v2/models/count/generate_stream HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    sock = connect(port)
    sock.sendall(head + body)
    data = b""
    while b"data: " not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return sock, data


def nap_json():
    tensor = {"name": "SECONDS", "datatype": "FP32", "shape": [1], "data": [0.02]}
    return json.dumps({"inputs": [tensor]}).encode()


def count_request():
    message = service_pb2.ModelInferRequest(model_name="count")
    message.inputs.add(name="N", datatype="INT32", shape=[1])
    message.raw_input_contents.append(np.array([PAUSE_MS], np.int32).tobytes())
    return message


def nap_request():
    message = service_pb2.ModelInferRequest(model_name="nap")
    message.inputs.add(name="SECONDS", datatype="FP32", shape=[1])
    message.raw_input_contents.append(np.array([0.02], np.float32).tobytes())
    return message


def test_sigterm_answers_all(tmp_path):
    """32 unary requests on both doors, decoupled streams on both, idle connections on both: exit 0 within 2 s."""
    http_port, grpc_port, metrics_port = free_ports(3)
    command = [str(Path(sys.executable).parent / "despina"), "serve", f"--model-repository={wire_models(tmp_path)}"]
    command += [f"--http-port={http_port}", f"--grpc-port={grpc_port}", f"--metrics-port={metrics_port}"]
    log = tmp_path / "log"
    with log.open("wb") as sink, contextlib.ExitStack() as stack:
        child = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, process_group=0)
        stack.callback(end, child)
        wait_until_live(child, http_port, log)
        for port in (http_port, grpc_port):
            for _ in range(20):
                stack.enter_context(connect(port))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{grpc_port}"))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        streams = []
        for _ in range(STREAMS):
            asked = queue.SimpleQueue()
            asked.put(count_request())
            answers = stub.ModelStreamInfer(iter(asked.get, None))
            next(answers)  # it is under way
            streams.append((asked, answers))
        events = [generate(http_port) for _ in range(STREAMS)]
        body = nap_json()
        head = b"POST /v2/models/nap/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
        unary = [stack.enter_context(connect(http_port)) for _ in range(CALLS)]
        for sock in unary:
            sock.sendall(head + body)
        calls = [stub.ModelInfer.future(nap_request()) for _ in range(CALLS)]
        replies = service_pb2.ModelStatisticsRequest(name="nap")
        until_in_flight(stub, replies)
        child.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        for asked, _ in streams:
            asked.put(None)
        for sock in unary:
            assert b" 200 OK" in read_to_end(sock).partition(b"\r\n")[0]
        for one in calls:
            assert one.result(timeout=30).model_name == "nap"
        for sock, data in events:
            with sock:
                assert (data + read_to_end(sock)).count(b'"I":') == 2
        for _, answers in streams:
            assert [np.frombuffer(one.infer_response.raw_output_contents[0], np.int32)[0] for one in answers] == [1]
        assert child.wait(30) == 0
        assert time.monotonic() - begin < 15


def until_in_flight(stub, question):
    """Returns when the model has begun: its door has then read the calls, which came on connections opened before."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        if stub.ModelStatistics(question).model_stats[0].inference_count:
            return
        time.sleep(0.005)
    raise AssertionError("the model does not run")


def end(child):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
