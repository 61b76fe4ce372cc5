"""SIGTERM beside gRPC peers that do nothing or stop halfway: who is in flight is answered, nobody is waited for."""

from __future__ import annotations

import queue
import time

import grpc
import hpack
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conformance.processes import serving
from tests.conformance.test_wire_http2 import DATA, HEADERS, INFER, PREFACE, SETTINGS, fields, frame, framed
from tests.conformance.test_wire_http2 import infer_request as simple_request
from tests.conformance.test_wire_stopping import nap_request, until_in_flight
from tests.conformance.wire import connect, read_to_end, wire_models

IN_FLIGHT = 32
STOP_S_MAX = 15.0
STOPPING = "GRPC server is shutting down and has stopped accepting new requests."


def half_sent(port):
    """Sockets on which a request has begun: a head alone, part of a message, part of a frame, part of a head."""
    head = frame(HEADERS, 4, 1, hpack.Encoder().encode(fields(INFER)))
    message = framed(simple_request())
    whole = frame(DATA, 1, 1, message)
    for sent in (head, head + frame(DATA, 0, 1, message[:50]), head + whole[:50], head[:20]):
        sock = connect(port)
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + sent)
        yield sock


def test_sigterm_waits_for_nobody_who_does_nothing(tmp_path):
    """32 calls are answered beside idle streams and half-sent requests; exit 0 within 2 s."""
    with serving(wire_models(tmp_path), tmp_path / "log") as server:
        port = server.grpc_port
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, grpc.insecure_channel(f"127.0.0.1:{port}") as other:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            streams = []
            for place in (channel, channel, other, other):
                answers = service_pb2_grpc.GRPCInferenceServiceStub(place).ModelStreamInfer(
                    iter(queue.SimpleQueue().get, None)
                )
                streams.append(answers)
            used = queue.SimpleQueue()
            used.put(service_pb2.ModelInferRequest.FromString(simple_request()))
            streams.append(stub.ModelStreamInfer(iter(used.get, None)))
            assert next(streams[-1]).infer_response.model_name == "simple"
            socks = list(half_sent(port))
            idle = [connect(port) for _ in range(8)]
            for sock in idle[4:]:
                sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
            calls = [stub.ModelInfer.future(nap_request()) for _ in range(IN_FLIGHT)]
            until_in_flight(stub, service_pb2.ModelStatisticsRequest(name="nap"))
            begin = time.monotonic()
            server.terminate()
            assert [call.result(timeout=30).model_name for call in calls] == ["nap"] * IN_FLIGHT
            for answers in streams:
                assert (answers.code(), answers.details()) == (grpc.StatusCode.UNAVAILABLE, STOPPING)
            code, said = server.ended()
            took = time.monotonic() - begin
            for sock in [*socks, *idle]:
                with sock:
                    read_to_end(sock)
    assert code == 0, said
    assert took < STOP_S_MAX
