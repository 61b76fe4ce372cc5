"""The metrics page: names, labels and numbers as scrapers of the reference server read them."""

from __future__ import annotations

import re
import time

import pytest
import trio
from attrs import define, field, frozen
from despina.engine.observe.custom_metrics import CustomMetrics
from despina.engine.observe.health import HealthReport
from despina.engine.observe.statistics import ModelStats
from despina.engine.observe.status import Workload
from despina.engine.request.batch import Batch
from despina.engine.request.job import Job
from despina.frontends.metrics import MetricsPage, MetricsSettings, serve_metrics
from despina.frontends.metrics import collector as collector_module
from despina.frontends.metrics.collector import EngineCollector
from despina.frontends.metrics.exposition import text_of
from despina.frontends.metrics.machine import Machine
from despina.schema.inference import InferenceRequest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families


@define
class Config:
    metric_tags: dict = field(factory=dict)


@define
class Version:
    """As much of a model version as the page reads."""

    name: str = "m"
    namespace: str = ""
    version_text: str = "1"
    pending: int = 0
    load_seconds: float = 0.25
    gpus: tuple = ()
    config: Config = field(factory=Config)
    statistics: ModelStats = field(factory=ModelStats)
    carried: ModelStats = field(factory=ModelStats)

    def workload(self):
        return Workload(inflight=1, queue_max=10)


@frozen
class FakeEngine:
    loaded: list
    custom_metrics: CustomMetrics = field(factory=CustomMetrics)
    cache: None = None
    problems: list = field(factory=list)

    def versions(self):
        return iter(self.loaded)

    def health(self):
        return HealthReport(not self.problems, self.problems)


def page(*versions, machine=None):
    return text_of(EngineCollector(versions, machine).collect()).decode()


def execute(statistics, count):
    """Executions that succeeded, of one request each."""
    for _ in range(count):
        statistics.executed(Batch([Job(InferenceRequest("m", {}), None)], 1, "single"))


def test_names_order_and_kinds():
    """Goal: every family under its own name (no _total, no _created), in the protocol's order, with its kind."""
    families = re.findall(r"^# TYPE (\S+) (\S+)$", page(Version(), machine=Machine(0, time.monotonic)), re.MULTILINE)
    assert families == [
        ("nv_inference_request_success", "counter"),
        ("nv_inference_request_failure", "counter"),
        ("nv_inference_count", "counter"),
        ("nv_inference_exec_count", "counter"),
        ("nv_inference_request_duration_us", "counter"),
        ("nv_inference_queue_duration_us", "counter"),
        ("nv_inference_compute_input_duration_us", "counter"),
        ("nv_inference_compute_infer_duration_us", "counter"),
        ("nv_inference_compute_output_duration_us", "counter"),
        ("nv_inference_pending_request_count", "gauge"),
        ("nv_model_load_duration_secs", "gauge"),
        ("despina_inflight_request_count", "gauge"),
        ("despina_queue_max", "gauge"),
        ("despina_queue_oldest_seconds", "gauge"),
        ("despina_execution_count", "counter"),
        ("despina_unserved_request_count", "counter"),
        ("despina_build_info", "gauge"),
        ("nv_pinned_memory_pool_total_bytes", "gauge"),
        ("nv_pinned_memory_pool_used_bytes", "gauge"),
        ("nv_cpu_utilization", "gauge"),
        ("nv_cpu_memory_total_bytes", "gauge"),
        ("nv_cpu_memory_used_bytes", "gauge"),
    ]


def test_numbers_are_microseconds_without_exponents():
    """Goal: ns become truncated us; what a predecessor counted is added; large numbers stay plain digits."""
    version = Version(pending=3)
    execute(version.statistics, 2)
    execute(version.carried, 40)
    version.statistics.success_ns, version.carried.success_ns = 12_345_678_901_999, 1
    text = page(version)
    assert 'nv_inference_request_success{model="m",version="1"} 42\n' in text
    assert 'nv_inference_request_duration_us{model="m",version="1"} 12345678902\n' in text
    assert 'nv_inference_pending_request_count{model="m",version="1"} 3\n' in text
    assert 'nv_model_load_duration_secs{model="m",version="1"} 0.25\n' in text


def test_families_without_series_are_left_out():
    """Goal: no models, no model families."""
    assert "nv_inference" not in page()


def test_labels_are_sorted_and_escaped():
    """Goal: metric_tags become labels with an underscore; awkward values do not break the page."""
    text = page(Version(config=Config({"team": 'a"b\\c\nd', "x.y": "1"})))
    assert '{_team="a\\"b\\\\c\\nd",_x_y="1",model="m",version="1"} 0\n' in text
    assert {family.name for family in text_string_to_metric_families(text)} >= {"nv_inference_count"}


def test_four_failure_reasons_outlive_the_model():
    """Goal: all reasons from the start; they stay after an unload and go on counting after the next load."""
    collector = EngineCollector([Version()])
    first = collector.versions[0]
    first.statistics.failures["BACKEND"] = 5

    def failures():
        return dict(
            re.findall(r'failure{model="m",reason="(\w+)",version="1"} (\d+)', text_of(collector.collect()).decode())
        )

    assert failures() == {"REJECTED": "0", "CANCELED": "0", "BACKEND": "5", "OTHER": "0"}
    collector.versions = []
    assert failures()["BACKEND"] == "5"
    again = Version()
    again.statistics.failures["BACKEND"] = 2
    collector.versions = [again]
    assert failures()["BACKEND"] == "7"


def test_memory_of_gone_models_is_bounded(monkeypatch):
    """Goal: a client that loads a thousand names and more does not fill the server's memory."""
    monkeypatch.setattr(collector_module, "GONE_MAX", 5)
    collector = EngineCollector()
    for index in range(20):
        collector.versions = [Version(name=f"m{index}")]
        text = text_of(collector.collect()).decode()
    assert text.count('reason="OTHER"') == 6


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (10**18, "1000000000000000000"), (0.5, "0.5"), (2.0, "2"), (1e-7, "0.0000001"), (float("nan"), "Nan"),
     (float("inf"), "+Inf"), (float("-inf"), "-Inf")],
)  # fmt: skip
def test_number_forms(value, text):
    """Goal: digits and a point, as simple readers expect."""
    metric = Metric("x", "a\nb", "gauge")
    metric.add_sample("x", {}, value)
    written = text_of([metric]).decode()
    assert written.startswith("# HELP x a\\nb\n# TYPE x gauge\n")
    assert written.splitlines()[-1] == f"x {text}"


def test_machine_reads_at_most_once_per_interval(tmp_path):
    """Goal: utilisation is over the time between two looks, memory is total less available, in bytes."""
    now = [0.0]
    (tmp_path / "stat").write_text("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1\n")
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n")
    machine = Machine(2.0, lambda: now[0], tmp_path)
    (tmp_path / "stat").write_text("cpu  130 0 100 850 20 0 0 0 0 0\n")
    reading = machine.read()
    assert reading.cpu_utilization == pytest.approx(0.3)
    assert (reading.memory_total, reading.memory_used) == (1_024_000, 614_400)
    (tmp_path / "stat").write_text("cpu  230 0 100 850 20 0 0 0 0 0\n")
    now[0] = 1.9
    assert machine.read() is reading
    now[0] = 2.0
    assert machine.read().cpu_utilization == pytest.approx(1.0)


@pytest.mark.parametrize("stat", [None, "", "cpu x y\n", "cpu 1\n"])
def test_machine_without_proc(tmp_path, stat):
    """Goal: where /proc is missing or strange there are simply no such gauges."""
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    machine = Machine(0, time.monotonic, tmp_path)
    assert machine.read() is None
    assert "nv_cpu" not in page(machine=machine)


@pytest.mark.parametrize(
    "pair",
    [("summary_latencies", "maybe"), ("nonsense", "1"), ("summary_quantiles", ""), ("summary_quantiles", "2:0.1"),
     ("summary_quantiles", "0.5,-0.1")],
)  # fmt: skip
def test_settings_that_cannot_be(pair):
    """Goal: a wrong setting is refused by name."""
    with pytest.raises(ValueError, match=pair[0]):
        MetricsSettings(config=(pair,))


async def ask(stream, target, method="GET"):
    await stream.send_all(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()
    head, _, body = data.partition(b"\r\n\r\n")
    size = int(re.search(rb"Content-Length: (\d+)", head)[1])
    while len(body) < size:
        body += await stream.receive_some()
    return head.decode(), body.decode()


@pytest.mark.parametrize("models", [1, 30])
async def test_door(models, nursery):
    """Goal: the page over a socket, written here or in a thread; other paths empty, other methods 405; it drains."""
    engine = FakeEngine([Version(name=f"m{index}") for index in range(models)])
    sockets = [listener.socket for listener in await trio.open_tcp_listeners(0, host="127.0.0.1")]
    port = sockets[0].getsockname()[1]
    plain = [sock._sock for sock in sockets]

    async def run(task_status):
        await serve_metrics(engine, MetricsSettings(), sockets=plain, task_status=task_status)

    server = await nursery.start(run)
    with trio.fail_after(5):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        head, body = await ask(stream, "/metrics")
        assert head.startswith("HTTP/1.1 200 OK")
        assert "Content-Type: text/plain; charset=utf-8" in head
        assert body.count("nv_inference_count{") == models
        head, again = await ask(stream, "/metrics/")
        assert again.count("nv_inference_count{") == models
        head, body = await ask(stream, "/nope")
        assert (head.split("\r\n")[0], body) == ("HTTP/1.1 200 OK", "")
        head, body = await ask(stream, "/metrics", "POST")
        assert head.startswith("HTTP/1.1 405")
        assert body == '{"error":"Method Not Allowed"}'
        head, body = await ask(stream, "/v2/health/live")
        assert (head.split("\r\n")[0], body) == ("HTTP/1.1 200 OK", "")
        head, body = await ask(stream, "/v2/health/ready")
        assert (head.split("\r\n")[0], body) == ("HTTP/1.1 200 OK", '{"ready":true,"not_ready":[]}')
        engine.problems.append("model 'm' version 1 is LOADING")
        head, body = await ask(stream, "/v2/health/ready")
        assert head.startswith("HTTP/1.1 400 ")
        assert body == '{"ready":false,"not_ready":["model \'m\' version 1 is LOADING"]}'
        await server.drain(trio.current_time() + 1)
        assert await stream.receive_some() == b""


async def test_other_collectors_join_the_page(nursery):
    """Goal: a program that embeds the page may add families of its own."""
    metrics = MetricsPage(FakeEngine([]), MetricsSettings(), nursery)
    metric = Metric("mine", "my own", "counter")
    metric.add_sample("mine", {}, 1)

    class Collector:
        def collect(self):
            return [metric]

    metrics.registry.register(Collector())
    assert metrics._text().decode().endswith("# HELP mine my own\n# TYPE mine counter\nmine 1\n")


def test_why_batches_were_closed():
    """Goal: executions by reason, a predecessor's included; the sum is the number of executions."""
    version = Version()
    execute(version.statistics, 2)
    for reason in ("full", "full", "delay"):
        version.statistics.executed(Batch([Job(InferenceRequest("m", {}), None)], 1, reason))
    earlier = ModelStats()
    execute(earlier, 40)
    version.carried.add(earlier)
    text = page(version)
    assert re.findall(r'despina_batch_count{model="m",reason="(\w+)",version="1"} (\d+)', text) == [
        ("delay", "1"),
        ("full", "2"),
        ("single", "42"),
    ]
    assert 'nv_inference_exec_count{model="m",version="1"} 45\n' in text


def test_labels_that_cannot_be_encoded():
    """A custom metric's text with a lone surrogate is a page that scrapers read, with the replacement character."""
    metrics = CustomMetrics()
    metrics.family("gauge", "mine", "says \udc80").metric({"who": "a\udc80b"}).set(2)
    found = list(text_string_to_metric_families(text_of(EngineCollector(custom=metrics).collect()).decode()))
    assert [sample.labels for family in found for sample in family.samples if family.name == "mine"] == [
        {"who": "a\ufffdb"}
    ]
