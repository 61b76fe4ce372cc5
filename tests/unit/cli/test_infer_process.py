"""`despina infer` against a running server: every way in, every source of a tensor, streams, and mistakes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import orjson
import pytest
from despina.frontends.cli.client.calls import Ask, CallFailed, Signature
from despina.frontends.cli.client.over_http import HttpCalls
from despina.frontends.cli.client.place import Place, read_place
from despina.schema.tensor import Tensor

from tests.certificates import Certificates
from tests.unit.cli.child import COMMAND, CONFIG, MODEL, WAIT_S, Serving, add_model, ask


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A server with a model that counts down to 1, one answer each, and `sleeper`."""
    folder = tmp_path_factory.mktemp("many")
    add_model(folder, "sleeper", MODEL)
    add_model(folder, "countdown", COUNTDOWN)
    text = CONFIG.replace("dynamic_batching { }", "model_transaction_policy { decoupled: true }")
    text = text.replace("max_batch_size: 64", "max_batch_size: 0").replace("SECONDS", "FROM").replace("TWICE", "NOW")
    (folder / "countdown" / "config.pbtxt").write_text(text)
    with Serving(f"--model-repository={folder}", "--allow-metrics=false") as server:
        yield f"http://127.0.0.1:{server.port('HTTPService')}", f"grpc://127.0.0.1:{server.port('GRPC.*')}"


COUNTDOWN = """
import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            start = int(pb_utils.get_input_tensor_by_name(request, "FROM").as_numpy()[0])
            for number in range(start, 0, -1):
                tensor = pb_utils.Tensor("NOW", numpy.array([number], numpy.float32))
                sender.send(pb_utils.InferenceResponse([tensor]))
            if start == 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("nothing to count")))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_infer_verb(many, protocol):
    """Goal: one request from the shell on either protocol, readable answers, clear errors with exit code 1."""
    place = ["--protocol", protocol, "--url", many[protocol == "grpc"].rpartition("/")[2]]
    done = ask("infer", "sleeper", *place, "--input", "SECONDS=0.015625")
    assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.03125]]\n")
    done = ask("infer", "sleeper", *place, "--input", "NOPE=1")
    assert done.returncode == 1
    assert "input 'NOPE' is unknown; the model's inputs are SECONDS (FP32 [-1, 1])" in done.stderr
    done = ask("infer", "nobody", *place, "--input", "SECONDS=1")
    assert done.returncode == 1
    assert "Request for unknown model: 'nobody' is not found" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as held:
        place[-1] = f"127.0.0.1:{held.getsockname()[1]}"
    done = ask("infer", "sleeper", *place, "--input", "SECONDS=1")
    assert done.returncode == 1
    assert "cannot talk to" in done.stderr


def test_a_port_of_the_other_kind(many):
    """Goal: who mixes up the ports reads so, in words, without bytes of a protocol."""
    http, grpc = (url.rpartition(":")[2] for url in many)
    to_grpc = ask("infer", "sleeper", "--url", f"127.0.0.1:{grpc}", "--input", "SECONDS=0")
    to_http = ask("infer", "sleeper", "--url", f"grpc://127.0.0.1:{http}", "--input", "SECONDS=0")
    assert to_grpc.returncode == to_http.returncode == 1
    assert to_grpc.stderr == (
        f"error: cannot talk to http://127.0.0.1:{grpc}: it speaks HTTP/2 only, as a gRPC port does; "
        f"try --url grpc://127.0.0.1:{grpc}, or the HTTP port\n"
    )
    assert to_http.stderr.endswith("; if this is no gRPC port, try http://\n")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls(repository, tmp_path, protocol):
    """Goal: https:// with an authority of one's own; without it, or against what speaks no TLS, the reason in words."""
    certificates = Certificates.write(tmp_path)
    secure = [
        f"--{door}-{option}"
        for door in ("http", "grpc")
        for option in (
            "use-ssl=true",
            f"server-cert={certificates.path('server.pem')}",
            f"server-key={certificates.path('server.key')}",
        )
    ]
    arguments = ["infer", "sleeper", "--protocol", protocol, "--input", "SECONDS=0.015625"]
    trusting = ["--ca-file", certificates.path("root.pem")]
    with Serving(f"--model-repository={repository}", *secure) as server:
        place = f"127.0.0.1:{server.port('HTTPService' if protocol == 'http' else 'GRPC.*')}"
        plain = f"127.0.0.1:{server.port('Metrics Service')}"
        done = ask(*arguments, "--url", f"https://{place}", *trusting)
        assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.03125]]\n")
        done = ask(*arguments, "--url", f"https://{place}")
        assert done.returncode == 1
        assert f"s://{place}: its certificate is not trusted: " in done.stderr
        assert "--ca-file names another authority" in done.stderr
        done = ask(*arguments, "--url", f"https://{plain}", *trusting)
        assert done.stderr.endswith(f"s://{plain}: it does not speak TLS; leave https:// out\n")
        done = ask(*arguments, "--url", place)
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot talk to ")


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_mutual_tls(repository, tmp_path, door):
    """Goal: who has a certificate shows it; without it, or with --insecure for a stranger, the words fit."""
    certificates = Certificates.write(tmp_path)
    options = [
        f"--{door}-use-ssl-mutual=true",
        f"--{door}-server-cert={certificates.path('server.pem')}",
        f"--{door}-server-key={certificates.path('server.key')}",
        f"--{door}-root-cert={certificates.path('root.pem')}",
    ]
    scheme = "https" if door == "http" else "grpcs"
    with Serving(f"--model-repository={repository}", "--allow-metrics=false", *options) as server:
        place = f"{scheme}://127.0.0.1:{server.port('HTTPService' if door == 'http' else 'GRPC.*')}"
        asked = ["infer", "sleeper", "--url", place, "--input", "SECONDS=0.015625"]
        own = ["--cert", certificates.path("client.pem"), "--key", certificates.path("client.key")]
        done = ask(*asked, *own, "--ca-file", certificates.path("root.pem"))
        assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.03125]]\n")
        assert ask(*asked, *own, "--insecure").returncode == 0
        done = ask(*asked, "--ca-file", certificates.path("root.pem"))
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot talk to ")


def test_unix_sockets_and_headers(repository, socket_folder):
    """Goal: both doors at Unix sockets, and the headers by which a restricted API lets one in."""
    options = [
        f"--http-address=unix:{socket_folder}/http.sock",
        f"--grpc-address=unix:{socket_folder}/grpc.sock",
        "--http-restricted-api=inference:X-Key=secret",
        "--grpc-restricted-protocol=inference:key=secret",
        "--allow-metrics=false",
    ]
    asked = ["infer", "sleeper", "--input", "SECONDS=0.015625", "--url"]
    with Serving(f"--model-repository={repository}", *options) as server:
        server.wait_for("Started HTTPService")
        for place, header in (
            (f"unix:{socket_folder}/http.sock", "X-Key: secret"),
            (f"http+unix://{socket_folder}/http.sock", "x-key:secret"),
            (f"grpc+unix:{socket_folder}/grpc.sock", "triton-grpc-protocol-key: secret"),
        ):
            done = ask(*asked, place, "--header", header)
            assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.03125]]\n"), done.stderr
            assert "restricted" in ask(*asked, place).stderr
        done = ask(*asked, f"unix:{socket_folder}/grpc.sock")
        assert f"try --url grpc+unix:{socket_folder}/grpc.sock" in done.stderr


@pytest.mark.parametrize("door", [0, 1])
def test_decoupled_models_are_streams(many, door):
    """Goal: each answer is printed, as text or a line of JSON; an error among them is one."""
    done = ask("infer", "countdown", "--url", many[door], "-i", "FROM=3")
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines() if "[" in line] == ["[3.]", "[2.]", "[1.]"]
    done = ask("infer", "countdown", "--url", many[door], "-i", "FROM=2", "--json")
    assert [orjson.loads(line)["NOW"]["data"] for line in done.stdout.splitlines()] == [[2.0], [1.0]]
    done = ask("infer", "countdown", "--url", many[door], "-i", "FROM=0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing to count" in done.stderr


@pytest.mark.parametrize("door", [0, 1])
def test_sources_of_tensors(many, tmp_path, door):
    """Goal: .npy, .json, a raw file, standard input, and whole requests in JSON from both."""
    np.save(tmp_path / "value.npy", np.array([[0.015625]], np.float32))
    (tmp_path / "value.json").write_text("[[0.015625]]")
    (tmp_path / "value").write_bytes(np.float32(0.015625).tobytes())
    whole = {"inputs": [{"name": "SECONDS", "datatype": "FP32", "shape": [1, 1], "data": [0.015625]}], "id": "7"}
    (tmp_path / "request.json").write_bytes(orjson.dumps(whole))
    asked = ["infer", "sleeper", "--url", many[door]]
    for options, given in (
        (["-i", f"SECONDS=@{tmp_path}/value.npy"], b""),
        (["-i", f"SECONDS=@{tmp_path}/value.json"], b""),
        (["-i", f"SECONDS=@{tmp_path}/value"], b""),
        (["-i", "SECONDS=@-"], np.float32(0.015625).tobytes()),
        (["--request", f"{tmp_path}/request.json"], b""),
        (["--request", "-", "--parameter", "a=1", "--parameter", "b=x"], orjson.dumps(whole)),
    ):
        done = ask(*asked, *options, stdin=given)
        assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.03125]]\n"), done.stderr


def test_bytes_that_json_cannot_carry():
    """Goal: a stream over HTTP refuses them by name, and sends nothing else in their place."""
    tensor = Tensor.of("X", np.array([b"\xff"], dtype=object), "BYTES")
    calls = HttpCalls(read_place("127.0.0.1:1"), {}, 1, None)
    calls.signature = lambda *_: Signature([], [], decoupled=True)
    with pytest.raises(CallFailed, match="input 'X' has bytes that are no text"):
        next(calls.stream("m", "", Ask(inputs=[tensor])))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_interrupted(scheme):
    """Goal: ^C while a server is silent ends it with the shell's code for that, in a word, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        command = [*COMMAND, "infer", "m", "--url", place, "-i", "X=1"]
        # Tests that were begun in the background of a shell ignore ^C, and so would what they begin.
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeds) as asking:
            try:
                silent.settimeout(WAIT_S)
                connection, _ = silent.accept()
                with connection:
                    assert connection.recv(1)
                    asking.send_signal(signal.SIGINT)
                    said = asking.communicate(timeout=WAIT_S)[1]
            finally:
                asking.kill()
    assert (asking.returncode, said) == (130, "error: interrupted\n")


def test_repeat(many):
    """Goal: one answer, and how long the requests took, for people and programs."""
    asked = ["infer", "sleeper", "--url", many[0], "-i", "SECONDS=0", "--repeat", "5"]
    lines = ask(*asked).stdout.splitlines()
    assert lines[:2] == ["TWICE: FP32 1x1", "  [[0.]]"]
    assert lines[3].split() == [
        "REQUESTS",
        "FIRST",
        "MS",
        "LEAST",
        "MS",
        "MEAN",
        "MS",
        "MEDIAN",
        "MS",
        "P99",
        "MS",
        "MOST",
        "MS",
    ]
    assert lines[4].split()[0] == "5"
    answer, figures = map(orjson.loads, ask(*asked, "--json").stdout.splitlines())
    assert answer["TWICE"]["data"] == [0.0]
    assert figures["requests"] == 5
    assert figures["milliseconds"]["least"] <= figures["milliseconds"]["median"] <= figures["milliseconds"]["most"]


def test_what_is_no_inference_server():
    """Goal: a port of something else is named, without a traceback."""
    program = "import http.server; s = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
    program += "print(s.server_port, flush=True); s.serve_forever()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        port = int(other.stdout.readline())
        done = ask("infer", "m", "--url", f"127.0.0.1:{port}", "-i", "X=1")
        other.kill()
    assert done.returncode == 1
    assert "(HTTP 404)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--url", "ftp://x"], "--url is HOST[:PORT], after http://, https://, grpc:// or grpcs:// if you like, or "
         "unix:PATH, got 'ftp://x'"),
        (["--url", "https://x/y:z"], "--url is HOST or HOST:PORT, got 'https://x/y:z'"),
        (["--ca-file", "x"], "--ca-file is for https:// and grpcs://, got 'localhost'"),
        (["--url", "https://x", "--ca-file", "/gone"], "--ca-file /gone: No such file or directory"),
        (["--url", "https://x", "--cert", "/gone"], "--cert /gone: No such file or directory"),
        (["-H", "x"], "--header is NAME:VALUE, got 'x'"),
        (["-i", "X=1", "-r", "x"], "--input and --request: give one of them"),
    ],
)  # fmt: skip
def test_places_and_files_that_cannot_be(options, complaint):
    """Goal: each mistake is named before anything is sent."""
    done = ask("infer", "m", *options)
    assert (done.returncode, done.stderr) == (1, f"error: {complaint}\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "request.json:1:2: "),
        ("[]", "request.json: expected an object with `inputs`, each with name, shape, datatype and data"),
        ('{"inputs": [{"name": "SECONDS", "datatype": "FP32", "shape": [2], "data": [1]}]}',
         "input 'SECONDS': cannot reshape array"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be(many, tmp_path, content, complaint):
    """Goal: what is wrong in a file is said with its place."""
    (tmp_path / "request.json").write_text(content)
    done = ask("infer", "sleeper", "--url", many[0], "--request", f"{tmp_path}/request.json")
    assert done.returncode == 1
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("url", "protocol", "place"),
    [
        ("https://x", None, Place("http", "x", 443, tls=True)),
        ("https://[::1]/", "grpc", Place("grpc", "::1", 443, tls=True)),
        ("x", "grpc", Place("grpc", "x", 8001, tls=False)),
        ("grpc://x", None, Place("grpc", "x", 8001, tls=False)),
        ("grpcs://x:5", None, Place("grpc", "x", 5, tls=True)),
        ("http://x:1/", None, Place("http", "x", 1, tls=False)),
        ("unix:@name", None, Place("http", "localhost", 0, tls=False, path="@name")),
        ("grpc+unix:///run/s", None, Place("grpc", "localhost", 0, tls=False, path="/run/s")),
    ],
)
def test_places(url, protocol, place):
    """Goal: a missing port is the scheme's, or the door's."""
    assert read_place(url, protocol) == place
