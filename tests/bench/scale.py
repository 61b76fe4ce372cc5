"""Whether cost grows with size, and no faster: `python tests/bench/scale.py --help`.

A server is asked for more and more of one thing: models in a repository, idle connections, streams at one time, queued
requests, loads and unloads. Said is for each size the server's CPU and memory for one of them, how long it takes, and
what memory is left when all of them are gone. `--json FILE` also writes the points.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.crowd import Crowd, GrpcConnection, HttpConnection, number_request
from tests.bench.isolated import memory_kib
from tests.bench.load import WrongAnswer, cpu_seconds
from tests.bench.models import write_models
from tests.bench.scale_models import ANSWERS, ROWS_MAX, UPLOADED, write_held, write_one
from tests.conformance.servers import Server, running_in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HOST = "127.0.0.1"
CALLS_PER_CONNECTION = 1000
STREAMS_PER_CONNECTION = 100
SEVEN = b"\x07\0\0\0"
SETTLE_S = 12.0
"""How long what is free may take to go back to the system: the doors let go of it after ten seconds."""
ABOUT_KIB = 512
"""So much more is nothing."""


@attrs.frozen
class Point:
    """What so many of one thing have cost a server, all together."""

    size: int
    cpu_s: float
    seconds: float
    kib: int
    """More memory than before, the process's own."""
    kib_left: int
    """The same when they are gone."""
    more: dict[str, float] = attrs.field(factory=dict)
    """What else was measured, each of the whole."""


@attrs.frozen
class Cost:
    """A server's figures at one moment."""

    cpu_s: float
    at: float
    kib: int

    @classmethod
    def of(cls, server: Server) -> Cost:
        cpu_s = cpu_seconds(server.pid)
        assert cpu_s is not None, "its process is known"
        return cls(cpu_s, time.perf_counter(), memory_kib(server.pid)[2])


def settled(server: Server, wanted_kib: int) -> int:
    """The memory of a server that has got rid of something, as soon as it is about what it was, or in the end."""
    until = time.monotonic() + SETTLE_S
    while (kib := memory_kib(server.pid)[2]) > wanted_kib + ABOUT_KIB and time.monotonic() < until:
        time.sleep(0.2)
    return kib


# --- Models in one repository


def models(kind: str, sizes: Sequence[int]) -> Iterator[Point]:
    """A repository of so many models, Python models or ensembles of one: start, index, readiness, metrics, stop."""
    for size in (0, *sizes):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "models").mkdir()
            write_models(folder / "models", ("simple",))
            for index in range(size):
                write_one(folder / "models", f"m{index:05}", kind)
            began = time.perf_counter()
            server = stack.enter_context(running_in_process(folder / "models", folder))
            wait_until_ready(server)
            cost = Cost.of(server)
            if not size:
                empty = attrs.evolve(cost, at=cost.at - began)
                continue
            pages = {
                "index": costs_of(server, partial(ask, server.http_port, "POST", "/v2/repository/index")),
                "statistics": costs_of(server, partial(ask, server.http_port, "GET", "/v2/models/stats")),
                "ready": costs_of(server, partial(ask, server.http_port, "GET", "/v2/health/ready")),
                "metrics": costs_of(server, partial(ask, server.metrics_port, "GET", "/metrics")),
            }
            kib = cost.kib - empty.kib
            yield Point(size, cost.cpu_s - empty.cpu_s, cost.at - began - empty.at, kib, kib, pages)


def costs_of(server: Server, act: Callable[[], object], times: int = 5) -> float:
    """CPU seconds of the server."""
    before = Cost.of(server).cpu_s
    for _ in range(times):
        act()
    return (Cost.of(server).cpu_s - before) / times


# --- Connections, streams and the queue


def connections(server: Server, sizes: Sequence[int], protocol: str) -> Iterator[Point]:
    """So many that have asked once and then do nothing; `idle` is what they cost in a second."""
    for size in sizes:
        before = Cost.of(server)
        with Crowd([idle(server, protocol) for _ in range(size)]) as crowd:
            crowd.opened() if protocol == "grpc" else crowd.answered()
            after = Cost.of(server)
            time.sleep(1)
            more = {"idle": Cost.of(server).cpu_s - after.cpu_s}
            more["health"] = costs_of(server, lambda: ask(server.http_port, "GET", "/v2/health/live"), 20)
        yield point(server, size, before, after, more)


def idle(server: Server, protocol: str) -> HttpConnection | GrpcConnection:
    """A connection."""
    if protocol == "grpc":
        return GrpcConnection(HOST, server.grpc_port)
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    return HttpConnection(HOST, server.http_port, request, b"\r\n\r\n", (b"HTTP/1.1 ", 1))


def streams(server: Server, sizes: Sequence[int], protocol: str) -> Iterator[Point]:
    """So many at the same time, of ten answers each, which come by turns."""
    closed = server.repository / "streamed" / "1" / "closed"
    expected = answer_bytes(server, "ModelStreamInfer", "streamed", ANSWERS)
    for size in sizes:
        closed.touch()
        before = Cost.of(server)
        with crowd_of_streams(server, protocol, size, expected) as crowd:
            crowd.sent()
            wait_for(server, "nv_inference_pending_request_count", "streamed", lambda count: count == 0)
            open_kib = Cost.of(server).kib
            closed.unlink()
            crowd.answered()
            after = attrs.evolve(Cost.of(server), kib=open_kib)
        yield point(server, size, before, after, {})


def crowd_of_streams(server: Server, protocol: str, size: int, answer_bytes: int) -> Crowd:
    """Over gRPC, several share a connection."""
    if protocol == "http":
        body = json.dumps({"INPUT0": [[7]]}).encode()
        head = b"POST /v2/models/streamed/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        expected = b'"OUTPUT0":7', ANSWERS
        return Crowd([HttpConnection(HOST, server.http_port, head + body, b"0\r\n\r\n", expected) for _ in range(size)])
    crowd = Crowd([GrpcConnection(HOST, server.grpc_port) for _ in range(-(-size // STREAMS_PER_CONNECTION))])
    crowd.opened()
    spread(crowd, "ModelStreamInfer", "streamed", size, answer_bytes)
    return crowd


def spread(crowd: Crowd, path: str, model: str, size: int, answer_bytes: int) -> None:
    """Begins so many calls, about as many on each connection."""
    count = len(crowd.connections)
    for index, connection in enumerate(crowd.connections):
        assert isinstance(connection, GrpcConnection), "of the gRPC door"
        calls = size * (index + 1) // count - size * index // count
        connection.call(path, number_request(model), calls, answer_bytes)


def answer_bytes(server: Server, path: str, model: str, count: int) -> int:
    """How long the right answer to one call is, of so many messages. Raises WrongAnswer."""
    (server.repository / model / "1" / "closed").unlink(missing_ok=True)
    with Crowd([GrpcConnection(HOST, server.grpc_port)]) as crowd:
        (connection,) = crowd.connections
        assert isinstance(connection, GrpcConnection), "of the gRPC door"
        connection.call(path, number_request(model), 1, 0)
        crowd.answered()
        if connection.sample.count(SEVEN) != count:
            raise WrongAnswer(f"{bytes(connection.sample)!r}")
        return connection.data_bytes


def queued(server: Server, sizes: Sequence[int], they: str) -> Iterator[Point]:
    """So many requests that wait for a model: until it answers them, or until their callers have left."""
    closed = server.repository / "held" / "1" / "closed"
    expected = answer_bytes(server, "ModelInfer", "held", 1)
    for size in sizes:
        closed.touch()
        before = Cost.of(server)
        with Crowd([GrpcConnection(HOST, server.grpc_port) for _ in range(-(-size // CALLS_PER_CONNECTION))]) as crowd:
            crowd.opened()
            spread(crowd, "ModelInfer", "held", size, expected)
            crowd.sent()
            wait_for(server, "nv_inference_pending_request_count", "held", (size - ROWS_MAX).__le__)
            waiting = Cost.of(server)
            if they == "answered":
                closed.unlink()
                crowd.answered()
        if they == "left":
            wait_for(server, "nv_inference_pending_request_count", "held", lambda count: count == 0)
        done = Cost.of(server)
        closed.unlink(missing_ok=True)
        more = {"queueing": waiting.cpu_s - before.cpu_s, "ending": done.cpu_s - waiting.cpu_s}
        yield point(server, size, before, attrs.evolve(done, kib=waiting.kib), more)


# --- Loads and unloads


def loads(server: Server, sizes: Sequence[int], names: str) -> Iterator[Point]:
    """So many loads and unloads, of the same model, or each of another name, whose files come with the load."""
    done = 0
    before = Cost.of(server)
    connection = http.client.HTTPConnection(HOST, server.http_port, timeout=60)
    for size in sizes:
        for index in range(size - done):
            name, body = ("loaded", b"{}") if names == "one" else (f"name{done + index:05}", UPLOADED)
            for act in ("load", "unload"):
                post(connection, f"/v2/repository/models/{name}/{act}", body if act == "load" else b"{}")
        done = size
        after = Cost.of(server)
        kib = settled(server, before.kib)
        yield Point(size, after.cpu_s - before.cpu_s, after.at - before.at, after.kib - before.kib, kib - before.kib)
    connection.close()


def post(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    """Raises WrongAnswer for what is refused."""
    connection.request("POST", path, body)
    reply = connection.getresponse()
    text = reply.read()
    if reply.status != 200:
        raise WrongAnswer(f"{path}: {reply.status} {text!r}")


# --- What they share


def point(server: Server, size: int, before: Cost, after: Cost, more: dict[str, float]) -> Point:
    """The cost between two moments; waits for the memory to come back."""
    left = settled(server, before.kib) - before.kib
    return Point(size, after.cpu_s - before.cpu_s, after.at - before.at, after.kib - before.kib, left, more)


def ask(port: int, method: str, path: str) -> bytes:
    """The answer's body. Raises WrongAnswer for another status than 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise WrongAnswer(f"{path}: {reply.status} {body[:200]!r}")
        return body


def wait_until_ready(server: Server) -> None:
    """Raises WrongAnswer after two minutes."""
    until = time.monotonic() + 120
    while True:
        try:
            ask(server.http_port, "GET", "/v2/health/ready")
            return
        except WrongAnswer:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def wait_for(server: Server, metric: str, model: str, is_right: Callable[[int], bool]) -> None:
    """Until a model's metric is as it should be. Raises WrongAnswer after two minutes."""
    until = time.monotonic() + 120
    while True:
        lines = ask(server.metrics_port, "GET", "/metrics").decode().splitlines()
        found = [line for line in lines if line.startswith(metric + "{") and f'model="{model}"' in line]
        count = sum(int(float(line.rpartition(" ")[2])) for line in found)
        if found and is_right(count):
            return
        if time.monotonic() > until:
            raise WrongAnswer(f"{metric} of {model} is {count}")
        time.sleep(0.1)


CURVES: dict[str, tuple[int, Callable[[Server, Sequence[int]], Iterator[Point]]]] = {
    "idle HTTP connections": (10_000, partial(connections, protocol="http")),
    "idle gRPC connections": (10_000, partial(connections, protocol="grpc")),
    "streams over HTTP": (1_000, partial(streams, protocol="http")),
    "streams over gRPC": (1_000, partial(streams, protocol="grpc")),
    "queued requests, answered": (100_000, partial(queued, they="answered")),
    "queued requests, callers leave": (100_000, partial(queued, they="left")),
    "loads and unloads of one model": (10_000, partial(loads, names="one")),
    "loads and unloads of ever new names": (10_000, partial(loads, names="new")),
}
"""The largest size, and what measures so many of a server's."""
REPOSITORIES = {"Python models": (1_000, "python"), "ensembles of one model": (1_000, "ensembles")}
"""The same, each with servers of its own."""


def measured(name: str, sizes: Sequence[int]) -> Iterator[Point]:
    """The points of one curve."""
    if name in REPOSITORIES:
        yield from models(REPOSITORIES[name][1], sizes)
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        write_held(folder / "models")
        options = ["--model-control-mode=explicit", "--load-model=held", "--load-model=streamed"]
        options.append(f"--http-connection-count-max={max(sizes) + 100}")
        with running_in_process(folder / "models", folder, options) as server:
            wait_until_ready(server)
            yield from CURVES[name][1](server, sizes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints as it goes."""
    options = parsed(arguments)
    raise_file_limit()
    found: dict[str, list[Point]] = {}
    print("| of | so many | CPU ms | each µs | s | KiB each | KiB left | besides, CPU ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.curves:
        largest = max(1, round(known()[name] * options.share))
        found[name] = []
        for one in measured(name, [max(1, largest * part // 8) for part in (1, 2, 4, 8)]):
            found[name].append(one)
            more = ", ".join(f"{word} {1000 * value:,.0f}" for word, value in one.more.items())
            cells = f"{1e3 * one.cpu_s:,.0f} | {1e6 * one.cpu_s / one.size:,.0f} | {one.seconds:.1f} | "
            cells += f"{one.kib / one.size:.1f} | {one.kib_left:,}"
            print(f"| {name} | {one.size:,} | {cells} | {more} |", flush=True)
    if options.json:
        load = os.getloadavg()[0]
        told = {name: [attrs.asdict(one) for one in points] for name, points in found.items()}
        options.json.write_text(json.dumps({"load average": load, "curves": told}, indent=1))


def known() -> dict[str, int]:
    """Curves and their largest sizes."""
    return {name: size for name, (size, _) in {**REPOSITORIES, **CURVES}.items()}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="*", choices=list(known()), default=list(known()), metavar="CURVE")
    parser.add_argument("--share", type=float, default=1.0, help="of the largest sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the points")
    return parser.parse_args(arguments)


def raise_file_limit() -> None:
    """Each connection is an open file, here and in the server."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
