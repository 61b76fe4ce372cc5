"""`despina infer` against a running server: both protocols, with and without TLS, and ports of the other kind."""

from __future__ import annotations

import pytest
from despina.frontends.cli.infer import _place, infer

from tests.certificates import Certificates
from tests.unit.cli.child import MODEL, Serving, add_model, run


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    return folder


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_infer_verb(repository, protocol):
    """Goal: one request from the shell on either protocol, readable answers, clear errors with exit code 1."""
    with Serving(f"--model-repository={repository}", "--allow-metrics=false") as server:
        port = server.port("HTTPService" if protocol == "http" else "GRPC.*")
        place = ["--protocol", protocol, "--url", f"127.0.0.1:{port}"]
        done = run("infer", "sleeper", *place, "--input", "SECONDS=0.25")
        assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.5]]\n")
        done = run("infer", "sleeper", *place, "--input", "NOPE=1")
        assert done.returncode == 1
        assert "input 'NOPE' is unknown; the model's inputs are SECONDS (FP32 [-1, 1])" in done.stderr
        done = run("infer", "nobody", *place, "--input", "SECONDS=1")
        assert done.returncode == 1
        assert "Request for unknown model: 'nobody' is not found" in done.stderr
    done = run("infer", "sleeper", *place, "--input", "SECONDS=1")
    assert done.returncode == 1
    assert "cannot talk to" in done.stderr


def test_a_port_of_the_other_kind(repository):
    """Goal: who mixes up the ports reads so, in words, without bytes of a protocol."""
    with Serving(f"--model-repository={repository}", "--allow-metrics=false") as server:
        http, grpc = server.port("HTTPService"), server.port("GRPC.*")
        to_grpc = run("infer", "sleeper", "--url", f"127.0.0.1:{grpc}", "--input", "SECONDS=0")
        to_http = run("infer", "sleeper", "--protocol", "grpc", "--url", f"127.0.0.1:{http}", "--input", "SECONDS=0")
    assert to_grpc.returncode == to_http.returncode == 1
    assert to_grpc.stderr == (
        f"error: cannot talk to http://127.0.0.1:{grpc}: it speaks HTTP/2 only, as a gRPC port does; "
        "try --protocol grpc, or the HTTP port\n"
    )
    assert to_http.stderr.endswith("; if this is no gRPC port, try --protocol http\n")


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
    arguments = ["infer", "sleeper", "--protocol", protocol, "--input", "SECONDS=0.25"]
    trusting = ["--ca-file", certificates.path("root.pem")]
    with Serving(f"--model-repository={repository}", *secure) as server:
        place = f"127.0.0.1:{server.port('HTTPService' if protocol == 'http' else 'GRPC.*')}"
        plain = f"127.0.0.1:{server.port('Metrics Service')}"
        done = run(*arguments, "--url", f"https://{place}", *trusting)
        assert (done.returncode, done.stdout) == (0, "TWICE: FP32 1x1\n  [[0.5]]\n")
        done = run(*arguments, "--url", f"https://{place}")
        assert done.returncode == 1
        assert f"s://{place}: its certificate is not trusted: " in done.stderr
        assert "--ca-file names another authority" in done.stderr
        done = run(*arguments, "--url", f"https://{plain}", *trusting)
        assert done.stderr.endswith(f"s://{plain}: it does not speak TLS; leave https:// out\n")
        done = run(*arguments, "--url", place)
        assert done.returncode == 1
        assert done.stderr.startswith("error: cannot talk to ")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--url", "ftp://x"], "--url is HOST[:PORT], after http:// or https:// if you like, got 'ftp://x'"),
        (["--url", "https://x/y:z"], "--url is HOST or HOST:PORT, got 'https://x/y:z'"),
        (["--ca-file", "x"], "--ca-file is for https://, got 'localhost'"),
        (["--url", "https://x", "--ca-file", "/gone"], "--ca-file /gone: No such file or directory"),
    ],
)
def test_places_and_files_that_cannot_be(capsys, options, complaint):
    """Goal: each mistake is named before anything is sent."""
    assert infer(["m", *options]) == 1
    assert capsys.readouterr().err == f"error: {complaint}\n"


@pytest.mark.parametrize(
    ("url", "protocol", "place"),
    [
        ("https://x", "http", ("x:443", True)),
        ("https://[::1]/", "grpc", ("[::1]:443", True)),
        ("x", "grpc", ("x:8001", False)),
        ("http://x:1/", "http", ("x:1", False)),
    ],
)
def test_places(url, protocol, place):
    """Goal: a missing port is the scheme's, or the door's."""
    assert _place(url, protocol) == place
