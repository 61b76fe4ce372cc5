"""What signals do to a server, as a process: stopped while it loads, and asked to read its files anew."""

from __future__ import annotations

import signal
import socket
import ssl
import time

import pytest

from tests.certificates import Certificates
from tests.unit.cli.child import MODEL, WAIT_S, Serving, add_model, ask, send

SLOW = "import time\nprint('BEGUN opens', flush=True)\ntime.sleep({seconds})\n"


METHOD = """
    def initialize(self, arguments):
        print("BEGUN initialises", flush=True)
        time.sleep(1.5)

    def execute"""
SOURCES = {
    "opens": SLOW.format(seconds=1.5) + MODEL,
    "initialises": MODEL.replace("\n    def execute", METHOD, 1),
}


def test_stopped_while_models_load(tmp_path):
    """Goal: who presses ^C reads which models are waited for, for how long at most, and how to end at once."""
    for name, source in SOURCES.items():
        add_model(tmp_path, name, source)
    add_model(tmp_path, "quick", MODEL)
    with Serving(str(tmp_path), "--exit-timeout-secs=20") as server:
        server.wait_for("BEGUN opens")
        server.wait_for("BEGUN initialises")
        server.wait_for("successfully loaded 'quick'")
        server.process.send_signal(signal.SIGINT)
        server.wait_for("Waiting for what is being loaded")
        assert server.end()[0] == 0
    (said,) = [line for line in server.lines if "Waiting for" in line and "loaded" in line]
    assert "cannot be interrupted: initialises version 1, opens version 1. It is given up in 20 s; another" in said


def test_stopped_at_once_while_a_model_loads(tmp_path):
    """Goal: the second ^C, after a second, waits for nothing."""
    add_model(tmp_path, "slow", SLOW.format(seconds=60) + MODEL)
    with Serving(str(tmp_path)) as server:
        server.wait_for("BEGUN")
        server.process.send_signal(signal.SIGINT)
        server.wait_for("Waiting for what is being loaded")
        time.sleep(1)  # within it the signals are one wish
        server.process.send_signal(signal.SIGINT)
        assert server.end()[0] == 1


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    add_model(folder, "sleeper", MODEL)
    return folder


def test_two_signals_within_a_second_drop_nothing(repository):
    """Goal: ^C twice in a hurry answers what is in flight. Method: a request that takes longer than the hurry."""
    with Serving(str(repository), "--allow-grpc=false", "--allow-metrics=false") as server:
        port = server.port("HTTPService")
        connection = send(port, 0.7)
        send(port, 0).getresponse()  # the loop that answers it has read what came before
        for _ in range(2):
            server.process.send_signal(signal.SIGINT)
        server.wait_for(r"Signal \(2\) received")
        assert connection.getresponse().status == 200
        assert server.end()[0] == 0


def shown(port, protocols):
    """Serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as plain, context.wrap_socket(plain) as secured:
        return secured.getpeercert(binary_form=True)


@pytest.mark.parametrize("http_server", ["trio", "hypercorn"])
def test_certificates_are_read_anew(repository, tmp_path, http_server):
    """Goal: after SIGHUP both doors show the new certificate, and clients of a new authority get in; open connections
    go on; files that do not fit change nothing, and the log says so."""
    old, new = tmp_path / "old", tmp_path / "new"
    live = tmp_path / "live"
    for folder in (old, new, live):
        folder.mkdir()
    Certificates.write(old)
    Certificates.write(new)

    def install(folder, names=("server.pem", "server.key", "root.pem")):
        for name in names:
            (live / name).write_bytes((folder / name).read_bytes())

    install(old)
    options = [
        f"--{door}-{option}"
        for door in ("http", "grpc")
        for option in (
            "use-ssl=true",
            f"server-cert={live}/server.pem",
            f"server-key={live}/server.key",
        )
    ]
    options.append(f"--http-server={http_server}")
    with Serving(str(repository), "--allow-metrics=false", *options) as server:
        http, grpc = server.port("HTTPService"), server.port("GRPC.*")
        before = shown(http, ["http/1.1"])
        assert shown(grpc, ["h2"]) == before
        install(new)
        assert shown(http, ["http/1.1"]) == before
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("HTTP: read the certificate and its key anew")
        server.wait_for("GRPC: read the certificate and its key anew")
        after = shown(http, ["http/1.1"])
        assert after != before
        assert shown(grpc, ["h2"]) == after
        for place in (f"https://127.0.0.1:{http}", f"grpcs://127.0.0.1:{grpc}"):
            done = ask("infer", "sleeper", "--url", place, "--ca-file", f"{new}/root.pem", "-i", "SECONDS=0")
            assert done.returncode == 0, done.stderr
        install(old, ["server.key"])  # of another certificate
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("HTTP goes on with the certificate that it has: cannot use the certificate")
        server.wait_for("GRPC goes on with the certificate that it has: cannot use the certificate")
        assert shown(http, ["http/1.1"]) == after
        server.process.send_signal(signal.SIGTERM)
        assert server.end()[0] == 0


def test_authorities_of_clients_are_read_anew(repository, tmp_path):
    """Goal: with mutual TLS, clients of the old authority are no longer let in, those of the new one are."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        Certificates.write(folder)
    root = tmp_path / "root.pem"
    root.write_bytes((old / "root.pem").read_bytes())
    options = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={old}/server.pem",
        f"--grpc-server-key={old}/server.key",
        f"--grpc-root-cert={root}",
    ]

    def let_in(folder):
        own = ["--cert", f"{folder}/client.pem", "--key", f"{folder}/client.key", "--ca-file", f"{old}/root.pem"]
        return ask("infer", "sleeper", "--url", f"grpcs://127.0.0.1:{grpc}", "-i", "SECONDS=0", *own).returncode == 0

    with Serving(str(repository), "--allow-http=false", "--allow-metrics=false", *options) as server:
        grpc = server.port("GRPC.*")
        assert let_in(old)
        assert not let_in(new)
        root.write_bytes((new / "root.pem").read_bytes())
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("GRPC: read the certificate and its key anew")
        assert let_in(new)
        assert not let_in(old)


def test_nothing_to_read_anew(repository):
    """Goal: a hang-up never ends a server that has no terminal; it says that there was nothing to do."""
    with Serving(str(repository), "--allow-grpc=false", "--allow-metrics=false") as server:
        port = server.port("HTTPService")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("there is no log file, certificate or key to read anew")
        assert send(port, 0).getresponse().status == 200
