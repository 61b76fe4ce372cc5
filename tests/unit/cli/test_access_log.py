"""The access log: real clients on both doors, every fate of a request, and nothing where it is off."""

from __future__ import annotations

import http.client
import logging
import socket
import time

import numpy as np
import orjson
import pytest
import tritonclient.grpc as triton_grpc
from despina.frontends.access_log import AccessLog, AccessSettings, Entry, logger

from tests.unit.cli.child import MODEL, WAIT_S, Serving, add_model, run

STAGES = ("queue_us", "input_us", "infer_us", "output_us")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    return folder


@pytest.fixture(scope="module", params=["trio", "hypercorn"])
def served(request, repository, tmp_path_factory):
    """`.lines()` are those of its access log."""
    path = tmp_path_factory.mktemp("log") / "access.log"
    options = (f"--access-log={path}", f"--http-server={request.param}", "--allow-metrics=false")
    with Serving(f"--model-repository={repository}", *options) as server:
        server.http, server.grpc = server.port("HTTPService"), server.port("GRPCInferenceService")
        server.access = lambda: [orjson.loads(line) for line in whole_lines(path)]
        yield server


def whole_lines(path):
    """Those that have an end: a line is read while it is being written, too."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def found(server, any_of=(), **wanted):
    """The line with these members, or with those of one of `any_of`."""
    deadline = time.monotonic() + WAIT_S
    while True:
        for line in server.access():
            if any(each.items() <= line.items() for each in any_of or (wanted,)):
                return line
        assert time.monotonic() < deadline, server.access()
        time.sleep(0.02)


def body_of(id="", seconds=0.0):
    inputs = [{"name": "SECONDS", "shape": [1, 1], "datatype": "FP32", "data": [seconds]}]
    return orjson.dumps({"id": id, "inputs": inputs})


def ask(port, path, body=None, method="POST"):
    """Status and bytes of the answer, and where it was asked from."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request(method, path, body, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    reply = connection.getresponse()
    content = reply.read()
    peer = "{}:{}".format(*connection.sock.getsockname())
    connection.close()
    return reply.status, len(content), peer


def test_inference(served):
    """Goal: status, bytes and stages, which add up to no more than the whole; who asked for what, in which trace."""
    body = body_of("one", 0.05)
    status, size, peer = ask(served.http, "/v2/models/sleeper/infer", body)
    line = found(served, request_id="one")
    shown = {name: line.get(name) for name in ("door", "method", "path", "status", "request_bytes", "response_bytes")}
    assert shown == {
        "door": "http",
        "method": "POST",
        "path": "/v2/models/sleeper/infer",
        "status": status,
        "request_bytes": len(body),
        "response_bytes": size,
    }
    assert (line["model"], line["version"], line["caller"], line["trace_id"]) == ("sleeper", "1", peer, TRACE)
    assert line["infer_us"] >= 50_000
    assert sum(line[stage] for stage in STAGES) + line["receive_us"] + line["send_us"] <= line["duration_us"]


def test_one_request_again_and_again(served):
    """Goal: on a connection that repeats itself each request is noted; none takes a way past the log."""
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=WAIT_S)
    for _ in range(5):
        connection.request("POST", "/v2/models/sleeper/infer", body_of("again"))
        connection.getresponse().read()
    connection.close()
    ask(served.http, "/v2/models/sleeper/infer", body_of("behind them"))
    found(served, request_id="behind them")
    assert sum(line.get("request_id") == "again" for line in served.access()) == 5


@pytest.mark.parametrize(
    ("path", "body", "method", "status"),
    [("/v2/health/ready", None, "GET", 200), ("/v2/models/nobody/infer", b"{}", "POST", 404),
     ("/nope", None, "GET", 404), ("/v2/models/sleeper/infer", b"{", "POST", 400),
     ("/v2/models/sleeper/stats", None, "GET", 200),
     ("/v2/models/sleeper/generate", b'{"SECONDS": 0.01}', "POST", 200),
     ("/v2/models/sleeper/generate_stream", b'{"SECONDS": 0.01}', "POST", 200)],
)  # fmt: skip
def test_other_requests(served, path, body, method, status):
    """Goal: what is no inference, and what is refused, has its line, too, with the bytes of its answer."""
    answered, size, _ = ask(served.http, path, body, method)
    line = found(served, path=path, method=method, door="http", request_bytes=len(body or b""))
    assert line["status"] == answered
    assert answered == status or (status, answered) == (400, 500)
    assert line["response_bytes"] <= size  # chunks have lengths of their own around them
    assert (line["response_bytes"] > 0) == (size > 0)
    assert ("infer_us" in line) == ("generate" in path)


def test_client_that_left(served):
    """Goal: 499. Method: a reset while the model sleeps; later where the request had not been read by then."""
    for patience in (0.2, 1.0, 3.0):
        body = body_of("left", patience + 0.5)
        with socket.create_connection(("127.0.0.1", served.http), WAIT_S) as sock:
            head = f"POST /v2/models/sleeper/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall(head.encode() + body)
            time.sleep(patience)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ask(served.http, "/v2/models/sleeper/infer", body_of(f"after {patience}"))
        found(served, request_id=f"after {patience}")
        if any(line["status"] == 499 for line in served.access()):
            break
    assert found(served, status=499)["model"] == "sleeper"


def test_grpc(served):
    """Goal: the same of calls: the path, gRPC's own status, stages; classes, refusals, streams and other methods."""
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}")
    tensor = triton_grpc.InferInput("SECONDS", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.full((1, 1), 0.05, np.float32))
    path = "/inference.GRPCInferenceService/ModelInfer"
    client.infer("sleeper", [tensor], request_id="call")
    line = found(served, request_id="call")
    assert (line["door"], line["method"], line["path"], line["status"]) == ("grpc", "", path, 0)
    assert line["infer_us"] >= 50_000
    assert sum(line[stage] for stage in STAGES) + line["receive_us"] + line["send_us"] <= line["duration_us"]
    assert line["request_bytes"] > 30
    assert line["response_bytes"] > 30
    assert line["caller"].startswith("127.0.0.1:")

    ranked = [triton_grpc.InferRequestedOutput("TWICE", class_count=1)]
    client.infer("sleeper", [tensor], request_id="ranked", outputs=ranked)
    assert found(served, request_id="ranked")["infer_us"] >= 50_000

    with pytest.raises(triton_grpc.InferenceServerException):
        client.infer("nobody", [tensor])
    assert found(served, path=path, status=5)["response_bytes"] == 0

    assert client.is_server_ready()
    found(served, path="/inference.GRPCInferenceService/ServerReady", status=0)

    answers = []
    client.start_stream(lambda result, error: answers.append(error or result))
    for _ in range(3):
        client.async_stream_infer("sleeper", [tensor])
    client.stop_stream()
    assert len(answers) == 3
    line = found(served, path="/inference.GRPCInferenceService/ModelStreamInfer", status=0)
    assert line["request_bytes"] > 90
    assert line["response_bytes"] > 90

    tensor.set_data_from_numpy(np.full((1, 1), 0.7, np.float32))
    with pytest.raises(triton_grpc.InferenceServerException):
        client.infer("sleeper", [tensor], request_id="late", client_timeout=0.2)
    late = [{"path": path, "status": 1}, {"path": path, "status": 4}]  # whoever of the two notices it first
    found(served, any_of=late)
    client.close()


def test_cloud_door(repository, tmp_path):
    """Goal: the doors of hosted services have their lines in the same file."""
    path = tmp_path / "access.log"
    options = (f"--access-log={path}", "--allow-sagemaker=true", "--sagemaker-port=0", "--allow-metrics=false")
    with Serving(f"--model-repository={repository}", *options) as server:
        server.access = lambda: [orjson.loads(line) for line in whole_lines(path)]
        port = int(server.wait_for(r"Started Sagemaker HTTPService at [\d.]+:(\d+)")[1])
        assert ask(port, "/ping", method="GET")[0] == 200
        assert found(server, path="/ping")["status"] == 200


def test_sampled_but_for_failures(caplog):
    """Goal: of each ten one, and each that failed."""
    log = AccessLog(10)
    with caplog.at_level(logging.INFO, logger.name):
        for index in range(40):
            entry = Entry("http", "GET", "/", 0)
            entry.status = 404 if index == 3 else 200
            log.write(entry, failed=entry.status >= 400)
    assert [record.access["status"] for record in caplog.records] == [404, 200, 200, 200, 200]
    assert "http GET / 404, 0 bytes in, 0 out, us: duration " in caplog.records[0].getMessage()


@pytest.mark.parametrize("rate", [0, -1])
def test_rates_that_cannot_be(rate):
    with pytest.raises(ValueError, match="rate"):
        AccessSettings(rate=rate)


def test_file_that_cannot_be():
    """Goal: said at the start, by the option's name."""
    done = run("serve", "--model-repository=x", "--access-log=/nowhere/access.log")
    assert done.returncode == 1
    assert 'Bad option: "--access-log".\n/nowhere/access.log: No such file or directory' in done.stderr


def test_full_disk_and_the_servers_log(repository):
    """Goal: a full disk costs lines and one word of complaint, never requests; `-` puts the lines among the others."""
    for option, complaint in (("/dev/full", "No space left on device; lines of the log are lost"), ("-", "")):
        with Serving(f"--model-repository={repository}", f"--access-log={option}", "--allow-metrics=false") as server:
            port = server.port("HTTPService")
            for _ in range(3):
                assert ask(port, "/v2/models/sleeper/infer", body_of("x"))[0] == 200
            server.process.terminate()
            code, output = server.end()
        assert code == 0, output
        assert output.count("lines of the log are lost") == (1 if complaint else 0)
        assert complaint in output
        lines = [line for line in output.splitlines() if "POST /v2/models/sleeper/infer 200" in line]
        assert len(lines) == (0 if complaint else 3)
        assert all("[model sleeper, version 1, request id x, trace " in line for line in lines)
