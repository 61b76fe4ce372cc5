"""Options of the doors that are checked as a whole: TLS, restrictions, addresses."""

from __future__ import annotations

import pytest
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.serve import serve
from despina.frontends.cli.settings import BadSettings, settle


def settled(*arguments):
    return settle(read_command_line(["--model-repository=/m", *arguments], {}))


def complaints(*arguments):
    with pytest.raises(BadSettings) as caught:
        settled(*arguments)
    return caught.value.complaints


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_tls(door):
    """Goal: TLS is off until asked for; mutual implies it; the files reach the door."""
    files = [f"--{door}-server-cert=c", f"--{door}-server-key=k", f"--{door}-root-cert=r"]
    assert getattr(settled(*files), door).tls is None
    assert getattr(settled(*files, f"--{door}-use-ssl=true"), door).tls.mutual is False
    tls = getattr(settled(*files, f"--{door}-use-ssl-mutual=true"), door).tls
    assert (tls.mutual, tls.server_cert, tls.server_key, tls.root_cert) == (True, "c", "k", "r")


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_tls_needs_its_files(door):
    """Goal: what is missing is named by its option."""
    assert complaints(f"--{door}-use-ssl=true") == [
        f"Error: TLS on the {door} door needs --{door}-server-cert and --{door}-server-key."
    ]
    mutual = [f"--{door}-use-ssl-mutual=1", f"--{door}-server-cert=c", f"--{door}-server-key=k"]
    assert complaints(*mutual) == [f"Error: TLS on the {door} door needs --{door}-root-cert."]


def test_bad_certificate_ends_the_start(tmp_path, capsys):
    """Goal: a file that cannot be read ends the start with code 1, before models load, and is named."""
    files = [f"--grpc-server-cert={tmp_path}/none.pem", f"--grpc-server-key={tmp_path}/none.key"]
    assert serve([f"--model-repository={tmp_path}", "--grpc-use-ssl=true", *files]) == 1
    assert "none.pem" in capsys.readouterr().err


def test_restrictions():
    """Goal: the gRPC option prefixes its key; both options complain alike."""
    settings = settled("--grpc-restricted-protocol=inference,health:Key=v", "--http-restricted-api=trace:K=w")
    assert settings.grpc.restricted["health"] == (b"triton-grpc-protocol-Key", b"v")
    assert settings.http.restricted == {"trace": (b"K", b"w")}
    assert complaints("--grpc-restricted-protocol=nope:k=v", "--http-restricted-api=health,health:k=v") == [
        "restricted api 'health' can not be specified in multiple config groups",
        "unknown restricted api 'nope'",
    ]
    assert complaints("--grpc-restricted-protocol=health") == [
        "--grpc-restricted-protocol option format is '<apis>:<key>=<value>'. Got health"
    ]


def test_patterns_and_compression():
    """Goal: both patterns and the level reach their doors; a broken pattern is a bad option."""
    settings = settled(
        "--http-header-forward-pattern=^a",
        "--grpc-header-forward-pattern=b$",
        "--grpc-infer-response-compression-level=high",
    )
    assert (settings.http.forward_pattern, settings.grpc.forward_pattern) == ("^a", "b$")
    assert settings.grpc.response_compression_level == "high"
    assert "not a regular expression" in complaints("--http-header-forward-pattern=(")[0]


def test_one_path_for_two_doors():
    """Goal: two doors cannot share a path, whatever their ports say; metrics do not follow HTTP to one."""
    assert complaints("--http-address=unix:/x", "--grpc-address=unix:/x") == [
        "The server cannot listen to HTTP requests and GRPC requests at the same address and port unix:/x"
    ]
    doors = {name: address for name, address, _ in settled("--http-address=unix:/x").doors.open_doors()}
    assert doors == {"HTTP": "unix:/x", "GRPC": "0.0.0.0", "metrics": "127.0.0.1"}
