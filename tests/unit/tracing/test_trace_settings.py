"""Which requests are traced: settings of all models and of one, what follows what, and the counters."""

from __future__ import annotations

import pytest
from despina.engine.observe.trace_context import parse_traceparent
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings
from despina.frontends.trace_changes import levels_of, number_of
from despina.schema.fault import InvalidArgument
from hypothesis import given
from hypothesis import strategies as st


class Sink:
    def __init__(self):
        self.taken = []

    def take(self, finished):
        self.taken.append(finished)

    def retire(self, setting):
        self.taken.append(setting)

    def close(self):
        pass


def tracer(sink=None, **settings):
    settings.setdefault("file", "trace.json")
    return Tracer(TraceSettings(**settings), {"a", "b"}.__contains__, lambda _: sink or Sink())


def shown(tracer, model=""):
    return {name: values if name == "trace_level" else values[0] for name, values in tracer.shown(model).items()}


def chosen(tracer, count, model="a"):
    return [index for index in range(1, count + 1) if tracer.sample(model) is not None]


def test_off_at_first():
    """Goal: nothing is traced, and doors need not even ask, until a level is set."""
    tracing = tracer()
    assert not tracing.active
    assert shown(tracing) == {
        "trace_level": ("OFF",), "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0",
        "trace_file": "trace.json", "trace_mode": "triton",
    }  # fmt: skip


def test_every_so_many_th_until_the_count_is_used_up():
    """Goal: request k is chosen when the rate divides k; the count shows what is left, and then nothing is active."""
    tracing = tracer(level=["TIMESTAMPS"], rate=3, count=2)
    assert chosen(tracing, 5) == [3]
    assert shown(tracing)["trace_count"] == "1"
    assert chosen(tracing, 10) == [1]
    assert shown(tracing)["trace_count"] == "0"
    assert not tracing.active


@given(rate=st.integers(1, 7), count=st.integers(-1, 5), requests=st.integers(0, 60))
def test_sampling_against_counting(rate, count, requests):
    """Goal: the choice equals the rule written down naively."""
    expected = [index for index in range(1, requests + 1) if index % rate == 0]
    expected = expected if count < 0 else expected[:count]
    assert chosen(tracer(level=["TENSORS"], rate=rate, count=count), requests) == expected


def test_a_model_pins_what_is_set_and_follows_the_rest():
    """Goal: changes for all reach what a model has not set; clearing everything gives it up."""
    tracing = tracer()
    tracing.change({"rate": 3}, "a")
    tracing.change({"rate": 9, "count": 5})
    assert (shown(tracing, "a")["trace_rate"], shown(tracing, "a")["trace_count"]) == ("3", "5")
    assert shown(tracing, "b")["trace_rate"] == "9"
    tracing.change({"rate": None}, "a")
    assert shown(tracing, "a")["trace_rate"] == "9"
    tracing.change({"rate": None, "count": None})
    assert (shown(tracing)["trace_rate"], shown(tracing)["trace_count"]) == ("1000", "-1")
    assert shown(tracing, "a")["trace_rate"] == "1000"


def test_a_change_begins_counting_afresh():
    """Goal: the position in the sampling does not outlive a change of the setting."""
    tracing = tracer(level=["TIMESTAMPS"], rate=3)
    assert chosen(tracing, 2) == []
    tracing.change({"log_frequency": 1})
    assert chosen(tracing, 3) == [3]


def test_a_model_alone_can_be_traced():
    """Goal: one model's level makes the tracer active for that model only."""
    tracing = tracer(rate=1)
    tracing.change({"level": ("TIMESTAMPS",)}, "a")
    assert tracing.active
    assert chosen(tracing, 2, "b") == []
    assert chosen(tracing, 2, "a") == [1, 2]


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({}, {"level": ("TIMESTAMPS",), "rate": 0}, "sample rate must be non-zero"),
        ({"file": ""}, {"level": ("TIMESTAMPS",)}, "trace file name is not given"),
        ({"level": ("TIMESTAMPS",)}, {"count": 0}, ""),
    ],
)
def test_a_level_by_which_nothing_could_be_traced_is_refused(settings, changes, reason):
    """Goal: refused in the protocol's words, and nothing has changed."""
    tracing = tracer(**settings)
    before = shown(tracing)
    with pytest.raises(InvalidArgument) as caught:
        tracing.change(changes)
    assert caught.value.message == f"Attempting to set invalid trace setting :{reason}"
    assert shown(tracing) == before


def test_models_must_be_known():
    """Goal: settings of a model that does not serve are refused, read or written."""
    for ask in (lambda: tracer().shown("x"), lambda: tracer().change({"rate": 1}, "x")):
        with pytest.raises(InvalidArgument, match=r"^Request for unknown model : x$"):
            ask()


def test_a_callers_context_is_traced_in_any_case():
    """Goal: in OpenTelemetry mode a valid context wins over rate and count, uses up neither, and is the parent."""
    tracing = tracer(mode="opentelemetry", level=["TIMESTAMPS"], rate=0)
    assert tracing.active
    assert tracing.sample("a") is None
    trace = tracing.sample("a", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "k=v")
    assert trace.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert trace.parent.span_id == 0xB7AD6B7169203331
    assert trace.context() == (
        f'{{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-{trace.model_span_id:016x}-01","tracestate":"k=v"}}'
    )
    assert tracing.sample("a", "00-0-0-01") is None


def test_files_know_no_contexts():
    """Goal: in the other mode a context changes nothing."""
    tracing = tracer(level=["TIMESTAMPS"], rate=2)
    assert tracing.sample("a", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") is None
    assert tracing.sample("a").context() is None


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", True),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", False),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", False),
        ("", False),
    ],
)
def test_traceparent(text, valid):
    """Goal: the recommendation's rules for what is valid."""
    assert (parse_traceparent(text) is not None) is valid


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("trace_rate", " 5x", 5), ("trace_rate", "4294967295", 4294967295), ("trace_count", "-1", -1),
        ("trace_rate", "x", "Unable to parse 'trace_rate', got: x"),
        ("trace_rate", "", "Unable to parse 'trace_rate', got: "),
        ("trace_rate", "-1", "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: -1"),
        ("trace_rate", "9" * 5000,
         f"Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: {'9' * 5000}"),
        ("trace_count", "-5", "Unable to parse 'trace_count'. Expecting value >= -1, got:-5"),
        ("trace_count", "2147483648",
         "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 2147483648"),
    ],
)  # fmt: skip
def test_numbers(name, text, expected):
    """Goal: the protocol's reading of numbers, and its words for what is none."""
    if isinstance(expected, int):
        assert number_of(name, text) == expected
    else:
        with pytest.raises(InvalidArgument) as caught:
            number_of(name, text)
        assert caught.value.message == expected


def test_levels():
    """Goal: unknown levels are ignored, OFF stands alone."""
    assert levels_of(["TENSORS", "x", "TIMESTAMPS"]) == ("TIMESTAMPS", "TENSORS")
    assert levels_of(["OFF"]) == levels_of([]) == ()
    with pytest.raises(InvalidArgument, match="Expect only one trace level 'OFF' is specified"):
        levels_of(["OFF", "TIMESTAMPS"])


def test_a_finished_trace_is_closed():
    """Goal: finishing twice hands over once, and what is noted later is lost, not added behind the writer's back."""
    sink = Sink()
    tracing = tracer(sink, level=["TIMESTAMPS"], rate=1)
    trace = tracing.sample("a")
    trace.stamp("X", 5)
    trace.finish()
    trace.finish()
    trace.stamp("Y")
    tracing.close()
    (finished,) = sink.taken
    assert finished.notes == [("X", 5)]
