"""Distributions of latencies, GPU figures and families of models' own: what is kept, and how the page shows it."""

from __future__ import annotations

import math
import threading

import attrs
import despina
import pytest
from despina.engine.observe.custom_metrics import CustomMetrics
from despina.engine.observe.latencies import AGE_MAX_S, BUCKETS_MS, Histogram, ObservedStats, Summary
from despina.engine.observe.statistics import ModelStats
from despina.engine.observe.status import Workload
from despina.engine.port.settings import LatencySettings
from despina.frontends.metrics import MetricsSettings
from despina.frontends.metrics.collector import EngineCollector
from despina.frontends.metrics.exposition import text_of
from despina.frontends.metrics.gpu import Gpus
from despina.schema.fault import InvalidArgument, Unsupported
from despina.schema.pbtxt import parse_config
from despina.schema.wire.generated.inference import ModelConfig
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeBackend, request, write_model

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_quantiles_against_sorting(values):
    """Goal: each quantile is the value of that rank, off by half a percent and half a microsecond."""
    summary = Summary(0.0)
    for value in values:
        summary.observe(value, 1.0)
    for quantile, found in zip(QUANTILES, summary.quantiles(QUANTILES, 1.0), strict=True):
        exact = sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)]
        assert abs(found - exact) <= 0.5 + exact * 0.005
    assert (summary.count, summary.sum_us) == (len(values), sum(values))


def test_quantiles_forget():
    """Goal: what is older than a minute does not count any more, but for sum and count; memory stays bounded."""
    summary = Summary(0.0)
    for second in range(1000):
        summary.observe(100 if second < 500 else 900, second)
    assert summary.quantiles([0.5], 999)[0] == pytest.approx(900, rel=0.01)
    assert math.isnan(summary.quantiles([0.5], 999 + 2 * AGE_MAX_S)[0])
    assert summary.count == 1000
    assert len(summary._slots) == 5


def test_histogram():
    """Goal: a value counts where it first fits; bounds are inclusive."""
    histogram = Histogram((1, 5))
    for value in (0.5, 1, 1.1, 5, 6):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == pytest.approx(13.6)


def test_buckets_of_the_configuration():
    """Goal: a decoupled model's own buckets are taken, others' defaults, and ordinary models have no histogram."""
    metrics = (
        'model_metrics { metric_control { metric_identifier { family: "nv_inference_first_response_histogram_ms" } '
        "histogram_options { buckets: [ 10, 1 ] } } }"
    )
    decoupled = "model_transaction_policy { decoupled: true }"
    settings = LatencySettings(histograms=True)

    def made(text):
        return ObservedStats(settings, parse_config(text)).first_response

    assert made(f"{decoupled} {metrics}").bounds == (1, 10)
    assert made(decoupled).bounds == BUCKETS_MS
    assert made(metrics) is None


async def test_nothing_is_kept_unless_asked_for(tmp_path):
    """Goal: plain counters by default; with summaries every request that succeeds is in all five."""
    write_model(tmp_path, "m")
    async with despina.open_engine(tmp_path, backends={"fake": FakeBackend()}) as engine:
        assert type(engine.model("m").statistics) is ModelStats
    latencies = LatencySettings(summaries=True)
    async with despina.open_engine(tmp_path, backends={"fake": FakeBackend()}, latencies=latencies) as engine:
        for _ in range(3):
            await engine.infer_request(request())
        stats = engine.model("m").statistics
        assert stats.success_count == 3
        assert [getattr(stats, name).count for name in ("request", "queue", "input", "infer", "output")] == [3] * 5
        text = text_of(EngineCollector(list(engine.versions())).collect()).decode()
    assert 'nv_inference_request_summary_us_count{model="m",version="1"} 3\n' in text
    assert 'nv_inference_request_summary_us{model="m",version="1",quantile="0.999"} ' in text


async def test_summaries_of_a_model_with_a_cache(tmp_path):
    """Goal: hits are in the queue's and in their own, misses in theirs, and the request's is not made, as in the
    reference server; the cache as a whole is on the page."""
    write_model(tmp_path, "m", more="response_cache { enable: true }")
    write_model(tmp_path, "n")
    options = {"latencies": LatencySettings(summaries=True), "cache_config": {"local": {"size": "10000"}}}
    async with despina.open_engine(tmp_path, backends={"fake": FakeBackend()}, **options) as engine:
        for value in (1, 1, 1, 2):
            await engine.infer_request(request(value=value))
        text = text_of(EngineCollector(list(engine.versions()), cache=engine.cache).collect()).decode()
    of_m = '{model="m",version="1"}'
    for name, count in (
        ("nv_cache_hit_summary_per_model", 2),
        ("nv_cache_miss_summary_per_model", 2),
        ("nv_inference_queue_summary_us", 4),
        ("nv_inference_compute_infer_summary_us", 2),
    ):
        assert f"{name}_count{of_m} {count}\n" in text
    assert f"nv_inference_request_summary_us_count{of_m}" not in text
    assert 'nv_inference_request_summary_us_count{model="n",version="1"} 0\n' in text
    for line in (
        f"nv_cache_num_hits_per_model{of_m} 2",
        f"nv_cache_num_misses_per_model{of_m} 2",
        "nv_cache_num_entries 2",
        "nv_cache_num_hits 2",
        "nv_cache_num_misses 2",
        "nv_cache_num_lookups 4",
        "nv_cache_num_evictions 0",
    ):
        assert f"{line}\n" in text
    assert 'per_model{model="n"' not in text


@attrs.define
class Version:
    statistics: ModelStats
    name: str = "m"
    namespace: str = ""
    version_text: str = "1"
    pending: int = 0
    load_seconds: float = 0.25
    gpus: tuple = ()
    config: ModelConfig = attrs.field(factory=ModelConfig)
    carried: ModelStats = attrs.field(factory=ModelStats)

    def workload(self):
        return Workload(inflight=0, queue_max=1)


def test_histogram_on_the_page():
    """Goal: cumulative buckets, the infinite one too, then nothing of other models."""
    config = parse_config("model_transaction_policy { decoupled: true }")
    stats = ObservedStats(LatencySettings(histograms=True), config)
    stats.first_response.observe(100)
    stats.first_response.observe(9999)
    text = text_of(EngineCollector([Version(stats), Version(ModelStats(), name="n")]).collect()).decode()
    lines = [line for line in text.splitlines() if line.startswith("nv_inference_first_response_histogram_ms")]
    head = "nv_inference_first_response_histogram_ms"
    assert lines == [
        f'{head}_count{{model="m",version="1"}} 2',
        f'{head}_sum{{model="m",version="1"}} 10099',
        *(
            f'{head}_bucket{{model="m",version="1",le="{le}"}} {count}'
            for le, count in (("100", 1), ("500", 1), ("2000", 1), ("5000", 1), ("+Inf", 2))
        ),
    ]
    assert "summary" not in text


def test_no_durations_on_the_page():
    """Goal: counter_latencies=false leaves out the durations, and counts on."""
    settings = MetricsSettings(config=(("counter_latencies", "false"),))
    text = text_of(EngineCollector([Version(ModelStats())], settings=settings).collect()).decode()
    assert "duration_us" not in text
    assert "nv_inference_request_success" in text


class Nvml:
    """As much of pynvml as is asked, over one GPU that does not tell its power limit."""

    class NVMLError(Exception):
        pass

    energy = 5000

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUUID(self, handle):
        return b"GPU-1"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return attrs.make_class("Rates", {"gpu": attrs.field(default=37)})()

    def nvmlDeviceGetMemoryInfo(self, handle):
        return attrs.make_class("Memory", {"total": attrs.field(default=100), "used": attrs.field(default=7)})()

    def nvmlDeviceGetPowerUsage(self, handle):
        return 70_500

    def nvmlDeviceGetPowerManagementLimit(self, handle):
        raise self.NVMLError

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self.energy += 1500
        return self.energy


def test_gpus():
    """Goal: each figure in its unit, energy from the start on, what is not told left out, models named by GPU."""
    gpus = Gpus(Nvml(), 0, lambda: 0.0)
    version = Version(ModelStats(), gpus=(0,))
    text = text_of(EngineCollector([version], gpus=gpus).collect()).decode()
    for line in (
        'nv_gpu_utilization{gpu_uuid="GPU-1"} 0.37', 'nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 100',
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 7', 'nv_gpu_power_usage{gpu_uuid="GPU-1"} 70.5',
        'nv_energy_consumption{gpu_uuid="GPU-1"} 1.5',
        'nv_inference_count{gpu_uuid="GPU-1",model="m",version="1"} 0',
    ):  # fmt: skip
        assert line + "\n" in text
    assert "nv_gpu_power_limit" not in text


@pytest.mark.parametrize(("wanted", "expected"), [("0", {0: "GPU-1"}), ("1", {}), ("", {}), ("GPU-1", {0: "GPU-1"})])
def test_gpus_that_the_process_may_not_use(monkeypatch, wanted, expected):
    """Goal: devices have the numbers that CUDA gives them, and others' GPUs are not on the page."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wanted)
    assert Gpus(Nvml(), 0, lambda: 0.0).uuids == expected


def test_families_of_models():
    """Goal: each kind does what it can, refuses the rest in the protocol's words, and is on the page."""
    custom = CustomMetrics()
    counter = custom.family("counter", "c", "Counted").metric({"k": "v"})
    counter.increment(2)
    gauge = custom.family("gauge", "g", "Level").metric({})
    gauge.set(-1.5)
    custom.family("histogram", "h", "Spread").metric({}, [1]).observe(0.5)
    custom.family("gauge", "empty", "No metric yet")
    with pytest.raises(InvalidArgument, match="can only be incremented monotonically by non-negative"):
        counter.increment(-1)
    with pytest.raises(Unsupported, match=r"^TRITONSERVER_METRIC_KIND_COUNTER does not support Set$"):
        counter.set(1)
    with pytest.raises(Unsupported, match=r"^TRITONSERVER_METRIC_KIND_GAUGE does not support Observe$"):
        gauge.observe(1)
    with pytest.raises(InvalidArgument, match=r"^Bucket boundaries not found in Metric args\.$"):
        custom.family("histogram", "h", "").metric({"other": "1"})
    with pytest.raises(InvalidArgument, match="Family name already exists with different type"):
        custom.family("gauge", "c", "")
    text = text_of(EngineCollector(custom=custom).collect()).decode()
    assert '# TYPE c counter\nc{k="v"} 2\n' in text
    assert "g -1.5\n" in text
    assert 'h_bucket{le="1"} 1\n' in text
    assert "empty" not in text
    family = custom.family("counter", "c", "")
    again = family.metric({"k": "v"})
    assert again is counter
    family.release(counter)
    assert family.metrics() == [counter], "it is held once more"
    family.release(counter)
    family.release(counter)
    assert family.metrics() == []


@pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "ä", "a\n"])
def test_names_that_scrapers_could_not_read(name):
    """Goal: one model cannot spoil the page for all. Names and labels are refused in the reference server's words."""
    custom = CustomMetrics()
    with pytest.raises(InvalidArgument, match=r"^Invalid metric name$"):
        custom.family("gauge", name, "")
    with pytest.raises(InvalidArgument, match=r"^Invalid label name$"):
        custom.family("gauge", "g", "").metric({name: "1"})


def test_names_of_the_servers_own():
    """Goal: the page has each family once: the server's."""
    custom = CustomMetrics()
    custom.family("gauge", "nv_inference_count", "mine").metric({}).set(7)
    assert "mine" not in text_of(EngineCollector(custom=custom).collect()).decode()


@pytest.mark.parametrize("buckets", [[2, 1], [1, 1], [float("nan")], [1, float("inf")]])
def test_buckets_that_cannot_be(buckets):
    """Goal: what is not in order, or no number, is refused."""
    with pytest.raises(InvalidArgument, match=r"strictly sorted|finite"):
        CustomMetrics().family("histogram", "h", "").metric({}, buckets)


def test_families_are_held():
    """Goal: a family is there as long as somebody holds it, and then another kind may have its name."""
    custom = CustomMetrics()
    first, second = custom.family("counter", "c", "x"), custom.family("counter", "c", "y")
    assert first is second
    first.metric({}).increment(1)
    custom.release(first)
    assert custom.families() == [first]
    custom.release(first)
    assert custom.families() == []
    other = custom.family("gauge", "c", "")
    custom.release(first)
    assert custom.family("gauge", "c", "") is other


def test_metrics_from_many_threads():
    """Goal: no increment is lost."""
    metric = CustomMetrics().family("counter", "c", "").metric({})

    def work():
        for _ in range(2000):
            metric.increment(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metric.value() == 8000
