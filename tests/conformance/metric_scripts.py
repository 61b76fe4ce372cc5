"""What the model `caller` of models_nested/ is told to do with metrics: lines of Python by a name for each."""

from __future__ import annotations

PAGE = "PAGE"
"""Instead of a script: the metrics page is read."""


def family(name: str, kind: str) -> str:
    """Makes `family`."""
    kinds = f"pb_utils.MetricFamily.{kind.upper()}"
    return f"family = pb_utils.MetricFamily(name='{name}', description='a {kind}', kind={kinds})\n"


COUNTER, GAUGE, HISTOGRAM = family("c1", "counter"), family("g1", "gauge"), family("h1", "histogram")
METRICS = {
    "counter": COUNTER
    + """metric = family.Metric(labels={'a': 'b', 'c': 'd'})
say(metric.value())
metric.increment(2.5)
metric.increment(1)
say(metric.value())
metric.increment(-1)""",
    "set a counter": COUNTER + "family.Metric(labels={'a': 'b'}).set(1)",
    "observe a counter": COUNTER + "family.Metric(labels={'a': 'b'}).observe(1)",
    "gauge": GAUGE + "metric = family.Metric()\nmetric.set(5)\nmetric.increment(-7)\nsay(metric.value())",
    "observe a gauge": GAUGE + "family.Metric().observe(1)",
    "histogram": HISTOGRAM
    + """metric = family.Metric(labels={}, buckets=[0.1, 1.0, 10.0])
metric.observe(0.05)
metric.observe(50)
say('done')""",
    "value of a histogram": HISTOGRAM + "family.Metric(labels={}, buckets=[0.1]).value()",
    "increment a histogram": HISTOGRAM + "family.Metric(labels={}, buckets=[0.1]).increment(1)",
    "set a histogram": HISTOGRAM + "family.Metric(labels={}, buckets=[0.1]).set(1)",
    "histogram without buckets": HISTOGRAM + "family.Metric(labels={})",
    "histogram with buckets that fall": HISTOGRAM + "family.Metric(labels={'x': 'y'}, buckets=[3.0, 2.0])",
    "histogram with no bucket": HISTOGRAM + "family.Metric(labels={'x': 'z'}, buckets=[])\nsay('done')",
    "buckets of a gauge": GAUGE + "family.Metric(labels={'x': 'y'}, buckets=[1.0])",
    "buckets that are none": HISTOGRAM + "family.Metric(labels={}, buckets=3)",
    "labels that are none": GAUGE + "family.Metric(labels=3)",
    "labels of numbers": GAUGE + "family.Metric(labels={'a': 1})\nsay('done')",
    "the same metric again": COUNTER
    + """one, other = family.Metric(labels={'a': 'b'}), family.Metric(labels={'a': 'b'})
one.increment(2)
say(other.value())""",
    "the same family again": COUNTER
    + f"one, first = family.Metric(labels={{'a': 'b'}}), family\none.increment(2)\n{COUNTER}"
    + "say(family.Metric(labels={'a': 'b'}).value())",
    "the same name, another kind": COUNTER + "other = " + family("c1", "gauge"),
    "a bad name": family("a b", "gauge"),
    "an empty name": family("", "gauge"),
}
KEPT = {
    "made": f"""{COUNTER}kept['families'] = [family]
kept['c'] = family.Metric(labels={{'a': 'b', 'c': 'd'}})
kept['c'].increment(2.5)
{GAUGE}kept['families'].append(family)
kept['g'] = family.Metric()
kept['g'].set(-5)
kept['other g'] = family.Metric(labels={{'of': 'x"y'}})
{HISTOGRAM}kept['families'].append(family)
kept['h'] = family.Metric(labels={{}}, buckets=[0.1, 1.0, 10.0])
for value in (0.05, 5, 50):
    kept['h'].observe(value)
say('done')""",
    "shown": PAGE,
    "dropped": "kept.clear()\nimport gc\ngc.collect()\nsay('done')",
    "shown without any": PAGE,
}
