"""What an operator does with a running server, with the programs that an operator has."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conformance.servers import free_ports
from tests.walk.load import load
from tests.walk.served import served
from tests.walk.walking import NotHere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.walk.served import Served
    from tests.walk.walking import Walk

_NGINX = """
daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log {folder}/nginx.error;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream http_door {{ {http} keepalive 16; }}
  upstream grpc_door {{ {grpc} keepalive 16; }}
  server {{
    listen 127.0.0.1:{ports[0]}; client_max_body_size 0;
    location / {{ proxy_pass http://http_door; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
  server {{
    listen 127.0.0.1:{ports[1]} http2; client_max_body_size 0;
    location / {{ grpc_pass grpc://grpc_door; }}
  }}
}}
"""
_LAME_DUCK_S = 1.0


def tool(name: str, variable: str) -> Path:
    """A program of this machine; the variable names it where the PATH does not. Raises NotHere."""
    found = os.environ.get(variable) or shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise NotHere(f"no {name} on the PATH, and ${variable} names none")
    return Path(found)


@contextlib.contextmanager
def nginx(folder: Path, servers: list[Served]) -> Iterator[tuple[str, str]]:
    """nginx before the servers. Gives the addresses of its doors for HTTP and gRPC."""
    program = tool("nginx", "DESPINA_NGINX")
    folder.mkdir()
    ports = free_ports(2)
    http = " ".join(f"server {server.http};" for server in servers)
    grpc = " ".join(f"server {server.grpc};" for server in servers)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, http=http, grpc=grpc, ports=ports))
    command = [str(program), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "nginx.error")]
    with running(command, folder / "nginx.said"):
        until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/v2/health/ready", timeout=5).status == 200)
        yield f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"


@contextlib.contextmanager
def running(command: list[str], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of the block."""
    with said.open("wb") as sink:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        yield child
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        child.wait()


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Asks again and again; what it raises, or AssertionError, when the time is over."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
            assert time.monotonic() < give_up, "it did not come true in time"
        except OSError:
            if time.monotonic() >= give_up:
                raise
        time.sleep(0.05)


def ends_under_load(walk: Walk, despina: Path, models: Path, folder: Path) -> None:
    """A server alone."""
    with (
        walk.step("SIGTERM under load: no request fails on either door, exit code 0"),
        served(despina, models, folder / "ended", f"--lame-duck-secs={_LAME_DUCK_S}") as server,
        load(server.http, server.grpc, until_refused=True) as counts,
    ):
        counts.answered_more(50)
        began = time.monotonic()
        code = server.terminate()
        took = time.monotonic() - began
        walk.note(f"answered: {counts.http.answered} HTTP, {counts.grpc.answered} gRPC; gone after {took:.2f} s")
        assert not counts.failed, counts.failed[:5]
        assert code == 0


def replaced_behind_nginx(walk: Walk, despina: Path, models: Path, folder: Path) -> None:
    """Two servers, of which one goes and comes back."""
    with walk.step("nginx in front of two servers, one of them replaced under load: no request fails on either door"):
        tool("nginx", "DESPINA_NGINX")
        with contextlib.ExitStack() as stack:
            options = [f"--lame-duck-secs={_LAME_DUCK_S}"]
            stays = stack.enter_context(served(despina, models, folder / "stays", *options))
            goes = stack.enter_context(served(despina, models, folder / "goes", *options))
            http, grpc = stack.enter_context(nginx(folder / "nginx", [stays, goes]))
            counts = stack.enter_context(load(http, grpc, until_refused=False))
            counts.answered_more(50)
            assert goes.terminate() == 0
            counts.answered_more(50)
            walk.note(f"answered: {counts.http.answered} HTTP, {counts.grpc.answered} gRPC")
            assert not counts.failed, counts.failed[:5]
            assert not counts.http.refused + counts.grpc.refused


def scraped(walk: Walk, server: Served, folder: Path) -> None:
    """Prometheus with one target."""
    with walk.step("Prometheus behind: it scrapes the server, and its query tells the requests answered"):
        program = tool("prometheus", "DESPINA_PROMETHEUS")
        folder.mkdir()
        (port,) = free_ports(1)
        target = f"127.0.0.1:{server.metrics_port}"
        settings = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [{"job_name": "despina", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))  # which is YAML, too
        command = [str(program), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        with load(server.http, server.grpc, until_refused=False) as counts:
            counts.answered_more(5)
        answered = counts.http.answered + counts.grpc.answered

        def told() -> float:
            query = urllib.parse.quote('sum(nv_inference_request_success{model="addsub"})')
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
            return float(result[0]["value"][1]) if result else 0.0

        with running(command, folder / "said"):
            until(lambda: told() >= answered, 60)
            walk.note(f"sum(nv_inference_request_success) is {told():g} after {answered} requests here")


def rotated(walk: Walk, server: Served) -> None:
    """As logrotate does it: rename, then SIGHUP."""
    with walk.step("the log renamed under load, then SIGHUP: lines go on in a new file, no request fails"):
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            raise NotHere("SIGHUP is ignored here, and by servers started here, as below nohup")
        old = server.log.with_name("log.1")
        with load(server.http, server.grpc, until_refused=False) as counts:
            counts.answered_more(20)
            server.log.rename(old)
            server.child.send_signal(signal.SIGHUP)
            until(server.log.exists)
            counts.answered_more(20)
        for verb in ("unload", "load"):
            url = f"http://{server.http}/v2/repository/models/addsub/{verb}"
            urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=30).read()
        until(lambda: "addsub" in server.log.read_text())
        assert "Started" in old.read_text()
        assert not counts.failed, counts.failed[:5]
