"""The metrics page after a fixed conversation over `models_metrics/`: one answer per family, compared like others.

An answer is the family's type, its help text and its series, labels as they are written. Values are compared where the
conversation settles them; durations and what the machine does are not.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import grpc
from tritonclient.grpc import service_pb2_grpc

from tests.conformance.grpc_probes import request, tensor
from tests.conformance.servers import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conformance.servers import Server

WAIT_S = 20.0
"""The reference server takes some seconds to unload a Python model."""
NAP_S = 0.4
"""How long the instance is busy while requests are queued behind it; setting that up takes a tenth of it."""
QUIET_S = 0.25
"""The reference server counts a request a little after it has answered it; then the page stands still."""
CLOCKED = re.compile(r"_us(_sum)?$|_ms_sum$|_secs$|^nv_cpu_|^nv_gpu_|^nv_energy_|^nv_.*_summary_us$")
"""Samples whose values are no part of the comparison."""


@attrs.frozen
class MetricsSuite:
    """What a suite is to the tests, with families for probes."""

    name: str
    options: tuple[str, ...] = ()
    models: Path = HERE / "models_metrics"

    @property
    def golden(self) -> Path:
        """Where the reference server's pages are recorded."""
        return HERE / "golden" / f"{self.name}.json"

    def ask(self, server: Server) -> dict[str, Any]:
        """Every family of the page after the conversation, and the door's answers to other requests."""
        wait(lambda: listening(server.metrics_port))  # the last door to open
        answers: dict[str, Any] = {"fresh": sorted(families(scrape(server)))}
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            conversation = Conversation(server, service_pb2_grpc.GRPCInferenceServiceStub(channel))
            conversation.run()
            page = families(settled_page(server))
            answers["families"] = sorted(page)
            answers.update(by_model(page))
            conversation.reload()
            page = families(settled_page(server))
            answers["families after unload"] = sorted(page)
            answers.update((f"{name} after unload", one) for name, one in by_model(page).items() if is_count(name))
        answers.update((f"{method} {path}", asked(server, method, path)) for method, path in DOOR)
        return answers


DOOR = (
    ("GET", "/metrics"), ("GET", "/metrics/"), ("GET", "/metrics?name=x"), ("GET", "/"), ("GET", "/metricsx"),
    ("GET", "/v2"), ("POST", "/metrics"), ("PUT", "/x"),
)  # fmt: skip


class Conversation:
    """Requests of every fate, none of which depends on how fast the servers are."""

    def __init__(self, server: Server, stub: Any) -> None:
        self.server = server
        self.stub = stub

    def run(self) -> None:
        for task in ("fine", "raise"):
            self.infer(task)
        self.infer("fine", rows=3)
        self.refused()
        for steps in (["a", "b", "c"], [], ["raise"], ["a", "raise"], ["z"]):
            self.stream(steps)
        # Answers that are errors have versions to themselves: they are counted differently.
        self.infer("fine", version="2")
        self.infer("error", version="2")
        for steps in (["a"], ["a", "error", "b"], ["error"]):
            self.stream(steps, version="2")
        self.batched()
        self.timed_out()
        self.cancelled()
        self.queue_full()

    def infer(self, task: str, model: str = "tasks", rows: int = 1, version: str = "1") -> None:
        outcome(self.begin(task, model, rows, version))

    def begin(self, task: str, model: str, rows: int = 1, version: str = "1", **parameters: Any) -> Any:
        text = struct.pack("<I", len(task)) + task.encode()
        inputs = [tensor("TASK", [rows, 1], "BYTES")]
        message = request(model, inputs, [text * rows], model_version=version, parameters=parameters)
        return self.stub.ModelInfer.future(message, timeout=WAIT_S)

    def refused(self) -> None:
        """Requests that no model gets to see."""
        self.infer("fine", version="7")
        self.infer("fine", rows=9)
        for bad in (request("nope", []), request("tasks", []), request("tasks", [tensor("TASK", [1, 2], "BYTES")])):
            outcome(self.stub.ModelInfer.future(bad, timeout=WAIT_S))
        outcome(self.stub.ModelInfer.future(request("pieces", []), timeout=WAIT_S))

    def stream(self, steps: list[str], version: str = "1") -> None:
        raw = b"".join(struct.pack("<I", len(step)) + step.encode() for step in steps)
        message = request("pieces", [tensor("STEPS", [len(steps)], "BYTES")], [raw], model_version=version)
        for _ in self.stub.ModelStreamInfer(iter([message]), timeout=WAIT_S):
            pass

    def behind_a_nap(self, model: str) -> Any:
        """A request that keeps the model's instance busy from now on."""
        trace = self.server.repository / model / "naps"
        before = trace.stat().st_size if trace.exists() else 0
        nap = self.begin(f"nap {NAP_S}", model)
        wait(lambda: trace.exists() and trace.stat().st_size > before)
        return nap

    def batched(self) -> None:
        """Three requests that wait for the same instance are executed together."""
        calls = [self.behind_a_nap("tasks"), *(self.begin("fine", "tasks", rows) for rows in (1, 2, 3))]
        for call in calls:
            outcome(call)

    def timed_out(self) -> None:
        """A request whose time in the queue is over before its turn comes; one waits before it, out of the queue."""
        calls = [self.behind_a_nap("queued"), self.queued(1)]
        for call in (*calls, self.begin("fine", "queued", timeout={"int64_param": 1000})):
            outcome(call)

    def cancelled(self) -> None:
        """A client that leaves while its request is queued."""
        calls = [self.behind_a_nap("queued"), self.queued(1), self.queued(2)]
        calls[-1].cancel()
        for call in calls:
            outcome(call)

    def queue_full(self) -> None:
        """One more than the queue takes, and another."""
        calls = [self.behind_a_nap("queued"), *(self.queued(count) for count in (1, 2))]
        for _ in range(2):
            self.infer("fine", "queued")
        for call in calls:
            outcome(call)

    def queued(self, place: int) -> Any:
        """A request that waits, with `place - 1` before it."""
        call = self.begin("fine", "queued")
        wait(lambda: self.pending("queued") == place)
        return call

    def reload(self) -> None:
        """A model that is unloaded and loaded again, after failures, and one that stays away."""
        for action, model in (("unload", "tasks"), ("load", "tasks"), ("unload", "queued")):
            asked(self.server, "POST", f"/v2/repository/models/{model}/{action}", self.server.http_port)
            wait(lambda: self.is_counted(model) == (action == "load"))  # noqa: B023 - called at once
        for task in ("fine", "raise"):
            self.infer(task)

    def is_counted(self, model: str) -> bool:
        """Whether the model is on the page. Unloading ends when its last request has been released."""
        series = families(scrape(self.server)).get("nv_inference_request_success", {"series": {}})["series"]
        return any(f'model="{model}"' in name for name in series)

    def pending(self, model: str) -> float:
        series = families(scrape(self.server))["nv_inference_pending_request_count"]["series"]
        return float(next(value for name, value in series.items() if f'model="{model}"' in name))


def wait(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.005)


def listening(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), WAIT_S):
        return True
    return False


def outcome(call: Any) -> None:
    """Waits for a call's end, whichever it is."""
    ended = threading.Event()
    call.add_done_callback(lambda _: ended.set())
    assert ended.wait(WAIT_S)


def asked(server: Server, method: str, path: str, port: int | None = None) -> dict[str, Any]:
    """Status and type of one answer, of the metrics door unless another port is given."""
    url = f"http://127.0.0.1:{port or server.metrics_port}{path}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, b"" if method != "GET" else None, method=method), timeout=WAIT_S
        ) as reply:
            return {"status": reply.status, "type": reply.headers["Content-Type"], "is_page": b"# HELP" in reply.read()}
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "type": error.headers["Content-Type"], "text": error.read().decode()}


def scrape(server: Server, host: str = "127.0.0.1") -> str:
    """The page as it is."""
    with urllib.request.urlopen(f"http://{host}:{server.metrics_port}/metrics", timeout=WAIT_S) as reply:
        return str(reply.read().decode())


def settled_page(server: Server, host: str = "127.0.0.1") -> str:
    """The page once nothing on it changes but what the machine does."""
    last, page = "", scrape(server, host)
    while families(last) != families(page):
        time.sleep(QUIET_S)
        last, page = page, scrape(server, host)
    return page


def families(page: str) -> dict[str, Any]:
    """Each family of the page: type, help and series, the latter with their values or with None."""
    found: dict[str, Any] = {}
    for kind, name, rest in parsed(page):
        if kind in ("HELP", "TYPE"):
            found.setdefault(name, {"series": {}})[kind.lower()] = rest
        else:
            family = found[next(known for known in (name, name.rpartition("_")[0]) if known in found)]
            family["series"][kind] = None if CLOCKED.search(name) else float(rest)
    return found


def by_model(page: dict[str, Any]) -> dict[str, Any]:
    """The families, and the series of each model version under a name of their own."""
    parts: dict[str, Any] = {}
    for name, family in page.items():
        loose = parts[name] = {**family, "series": {}}
        for series, value in family["series"].items():
            model, version = (re.search(rf'[{{,]{label}="([^"]*)"', series) for label in ("model", "version"))
            if model is None or version is None:
                loose["series"][series] = value
            else:
                parts.setdefault(f"{name} of {model[1]}/{version[1]}", {})[series] = value
    return parts


def is_count(name: str) -> bool:
    return name.startswith("nv_inference_") and CLOCKED.search(name.partition(" ")[0]) is None


def parsed(page: str) -> Iterator[tuple[str, str, str]]:
    """`HELP` or `TYPE`, name, text; or the series, its name, its value."""
    for line in page.splitlines():
        if line.startswith("# "):
            _, kind, name, rest = line.split(" ", 3)
            yield kind, name, rest
        else:
            series, _, value = line.rpartition(" ")
            yield series, series.partition("{")[0], value


EXPLICIT = ("--model-control-mode=explicit", "--load-model=*")
METRICS_SUITES = (
    MetricsSuite("metrics", EXPLICIT),
    MetricsSuite("metrics_summaries", (*EXPLICIT, "--metrics-config=summary_latencies=true")),
    MetricsSuite(
        "metrics_config",
        (
            *EXPLICIT,
            "--allow-cpu-metrics=false",
            "--metrics-config=counter_latencies=false",
            "--metrics-config=histogram_latencies=true",
            "--metrics-config=summary_latencies=true",
            "--metrics-config=summary_quantiles=0.25:0.05,0.5:0.01,0.999:0.001",
        ),
    ),
)
