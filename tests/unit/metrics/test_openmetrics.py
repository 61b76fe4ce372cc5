"""The page as OpenMetrics: asked for by an Accept header, readable by a strict reader, with exemplars."""

from functools import partial

import pytest
import trio
from despina.engine.observe.statistics import ModelStats
from despina.engine.port.settings import LatencySettings, TraceSettings
from despina.frontends.metrics import MetricsSettings, serve_metrics
from despina.frontends.metrics.collector import EngineCollector
from despina.frontends.metrics.openmetrics import is_asked_for, openmetrics_of
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.fakes import request, write_model

PROMETHEUS = (
    b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
TRACE = 0x0AF7651916CD43DD8448EB211C80319C


@pytest.mark.parametrize(
    ("accept", "asked"),
    [(PROMETHEUS, True), (b"application/openmetrics-text", True), (None, False), (b"*/*", False), (b"text/x", False),
     (b"text/plain, application/openmetrics-text; q=0", False), (b"application/openmetrics-text; q=0.5", True)],
)  # fmt: skip
def test_who_asks_for_it(accept, asked):
    """Goal: only who names the format gets it; all others the page that they know."""
    assert is_asked_for(accept) is asked


def test_families_of_the_c_api():
    """Goal: what comes as text of the older format is on the page, in this one's words."""
    text = openmetrics_of([], b"# HELP c it\n# TYPE c counter\nc 1\n# HELP g it\n# TYPE g gauge\ng Nan\n").decode()
    assert text == "# HELP c it\n# TYPE c unknown\nc 1\n# HELP g it\n# TYPE g gauge\ng NaN\n# EOF\n"
    assert [family.name for family in text_string_to_metric_families(text)] == ["c", "g"]


def test_awkward_texts():
    """Goal: quotes, backslashes and lines in help and labels do not break the page."""
    metric = Metric("x", 'a "b"\\\nc', "gauge")
    metric.add_sample("x", {"l": 'a "b"\\\nc'}, 1)
    (family,) = text_string_to_metric_families(openmetrics_of([metric]).decode())
    assert (family.documentation, family.samples[0].labels["l"]) == ('a "b"\\\nc', 'a "b"\\\nc')


class Sampled:
    """A tracer that gives each request this trace."""

    active = True

    def __init__(self, tracer):
        self._tracer = tracer

    def sample(self, name):
        trace = self._tracer.sample(name)
        trace.trace_id = TRACE
        return trace

    def __getattr__(self, name):
        return getattr(self._tracer, name)


async def test_exemplars(virtual_time, repository, backend, opened, tmp_path):
    """Goal: the same series under the same names as in the older format; a traced request is its bucket's exemplar."""
    write_model(repository, "m")
    trace = TraceSettings(level=["TIMESTAMPS"], rate=1, file=str(tmp_path / "trace"))
    async with opened(latencies=LatencySettings(histograms=True, summaries=True), trace=trace) as engine:
        engine.tracer = Sampled(engine.tracer)
        for _ in range(3):
            await engine.infer_request(request())
        collector = EngineCollector(engine.versions())
        families = {
            family.name: family
            for family in text_string_to_metric_families(openmetrics_of(collector.collect()).decode())
        }
        same = [sample for metric in collector.collect() for sample in metric.samples]
    shown = [sample for family in families.values() for sample in family.samples]
    assert {(one.name, frozenset(one.labels.items())) for one in shown} == {
        (one.name, frozenset(one.labels.items())) for one in same
    }
    assert families["nv_inference_request_success"].type == "unknown"
    found = [one.exemplar for one in families["despina_request_duration_seconds"].samples if one.exemplar]
    assert found[0].labels == {"trace_id": f"{TRACE:032x}"}
    assert 0 < found[0].value < 10


async def test_requests_without_a_trace_are_no_exemplars(virtual_time, repository, backend, opened):
    write_model(repository, "m")
    async with opened(latencies=LatencySettings(histograms=True)) as engine:
        await engine.infer_request(request())
        text = openmetrics_of(EngineCollector(engine.versions()).collect()).decode()
    assert 'despina_request_duration_seconds_bucket{model="m",version="1",le="10"} 1\n' in text
    assert "trace_id" not in text


class NoModels:
    custom_metrics = None
    cache = None

    def versions(self):
        return iter(())

    statistics = ModelStats()


async def test_both_formats_at_the_door(nursery):
    """Goal: one door, each scraper its own format."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    door = partial(serve_metrics, NoModels(), MetricsSettings(), sockets=[listener.socket._sock])
    await nursery.start(door)
    for accept, kind, end in (
        (PROMETHEUS, b"application/openmetrics-text; version=1.0.0", b"# EOF\n"),
        (b"*/*", b"text/plain", b"\n"),
    ):
        with trio.fail_after(5):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                head = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: %b\r\n\r\n" % accept
                await stream.send_all(head)
                data = b"".join([chunk async for chunk in stream])
        assert b"Content-Type: " + kind in data
        assert data.endswith(end)
        assert (b"# EOF" in data) is (end != b"\n")
