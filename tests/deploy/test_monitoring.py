"""The dashboard and the alert rules, with a real Prometheus that scrapes a real server under real load."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import orjson
import pytest
import yaml

from tests import in_process
from tests.unit.cli.child import CONFIG, MODEL, WAIT_S, Serving

FOLDER = "examples/deploy/monitoring"
INTERVAL = "10s"
"""Of rates: long enough for two scrapes on a busy machine."""
OPTIONS = (
    "--metrics-config=histogram_latencies=true",
    "--cache-config=local,size=1048576",
    "--trace-config=mode=opentelemetry",
    "--trace-config=level=TIMESTAMPS",
    "--trace-config=rate=0",
    "--trace-config=opentelemetry,url=http://127.0.0.1:9/v1/traces",  # nobody listens: spans are lost
)
TRACE = "0af7651916cd43dd8448eb211c80319c"
ELSEWHERE = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
"""Families that only other machines have."""
VARIABLES = {"$job": ".*", "$instance": ".*", "$model": ".*", "$__rate_interval": INTERVAL}


@pytest.fixture(scope="module")
def dashboard(checkout):
    return json.loads((checkout / FOLDER / "dashboard.json").read_text())


@pytest.fixture(scope="module")
def rules(checkout):
    return yaml.safe_load((checkout / FOLDER / "alerts.yaml").read_text())


def filled(expression):
    """As Grafana sends it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def queries(dashboard):
    """Every query of the dashboard, by its panel's title and its letter."""
    return {
        f"{panel['id']} {panel['title']} {target['refId']}": filled(target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


def without_limit(expression):
    """What an alert compares with its limit."""
    found = re.fullmatch(r"(.*\S)\s+(?:>|==)\s+[0-9.]+", expression.strip(), re.DOTALL)
    assert found, f"{expression} compares nothing"
    return found[1]


# --- Without Prometheus: names


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    policy = "dynamic_batching { default_queue_policy { max_queue_size: 2 default_timeout_microseconds: 100000 } }"
    for name, config in {
        "sleeper": CONFIG.replace("dynamic_batching { }", policy).replace("max_batch_size: 64", "max_batch_size: 1"),
        "kept": CONFIG + "response_cache { enable: true }\n",
    }.items():
        assert in_process.PARAMETER in config
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(MODEL)
        (folder / name / "config.pbtxt").write_text(config)
    return folder


class Load:
    """Callers who ask until they are stopped: too many, some in vain, some traced."""

    def __init__(self, port):
        self._port = port
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(6)]
        for thread in self._threads:
            thread.start()

    def _ask(self, index):
        count = 0
        while not self._ends.wait(0.02):
            count += 1
            seconds = -1 if count % 5 == 0 else 1.3 if index == 0 and count % 10 == 1 else 0.15
            model = "kept" if index == 5 else "sleeper"
            if model == "kept":
                seconds = 0
            body = {"inputs": [{"name": "SECONDS", "shape": [1, 1], "datatype": "FP32", "data": [seconds]}]}
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_S)
                parent = f"00-{TRACE}-b7ad6b7169203331-01"
                connection.request("POST", f"/v2/models/{model}/infer", orjson.dumps(body), {"traceparent": parent})
                connection.getresponse().read()
                connection.close()
            except OSError:
                return

    def stop(self):
        self._ends.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@pytest.fixture(scope="module")
def loaded(repository):
    """A server under load."""
    with Serving(f"--model-repository={repository}", "--allow-grpc=false", *OPTIONS) as server:
        server.metrics = server.port("Metrics Service")
        load = Load(server.port("HTTPService"))
        try:
            yield server
        finally:
            load.stop()


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as reply:
        return reply.read().decode()


def until(found):
    """Its first true value."""
    deadline = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def labels_of(text):
    """Family -> the labels that its series have."""
    found = {}
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_every_name_is_on_the_page(loaded, dashboard, rules):
    """Goal: each family and each label that a query names is one that a server has; needs no Prometheus."""
    until(lambda: "despina_batch_count" in page(loaded.metrics))
    known = labels_of(page(loaded.metrics))
    expressions = [*queries(dashboard).values()]
    expressions += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    seen = set()
    for expression in expressions:
        for name, selector in re.findall(r"\b((?:nv|despina)_[a-z_]+)(?:\{([^}]*)\})?", expression):
            seen.add(name)
            if name in ELSEWHERE:
                continue
            assert name in known, expression
            wanted = set(re.findall(r"(\w+)=~?\"", selector)) - {"job", "instance"}
            assert wanted <= known[name], expression
    assert len(seen) > 20


def test_panels_and_rules_are_complete(dashboard, rules):
    """Goal: no two panels have one id or lie over each other, and each rule says how bad it is and what to do."""
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert {"summary", "description"} <= set(rule["annotations"])


# --- With one


SERIES = {
    "DespinaDown": [("up{job='despina',instance='a'}", "0x60")],
    "DespinaInstanceDown": [("despina_instance_count{model='m',state='down'}", "1x60")],
    "DespinaQueueStands": [("despina_queue_oldest_seconds{model='m'}", "6x60")],
    "DespinaQueueNearlyFull": [
        ("nv_inference_pending_request_count{model='m'}", "90x60"),
        ("despina_queue_max{model='m'}", "100x60"),
    ],
    "DespinaRefusesRequests": [("despina_unserved_request_count{model='m',reason='queue_full'}", "0+1x60")],
    "DespinaTooLate": [
        ("despina_unserved_request_count{model='m',reason='given_up'}", "0+1x60"),
        ("nv_inference_request_success{model='m'}", "0+10x60"),
    ],
    "DespinaModelFails": [
        ("nv_inference_request_failure{model='m',reason='BACKEND'}", "0+1x60"),
        ("nv_inference_request_success{model='m'}", "0+10x60"),
    ],
    "DespinaSlow": [
        ("despina_request_duration_seconds_bucket{model='m',le='1'}", "0+1x60"),
        ("despina_request_duration_seconds_bucket{model='m',le='2.5'}", "0+10x60"),
        ("despina_request_duration_seconds_bucket{model='m',le='+Inf'}", "0+10x60"),
    ],
    "DespinaMachineFull": [("nv_cpu_memory_used_bytes", "96x60"), ("nv_cpu_memory_total_bytes", "100x60")],
    "DespinaReleasesDiffer": [
        ("despina_build_info{job='despina',version='1',instance='a'}", "1x120"),
        ("despina_build_info{job='despina',version='2',instance='b'}", "1x120"),
    ],
}
"""For each rule what offends it, a value a minute."""


@pytest.mark.parametrize("offends", [True, False])
def test_each_rule_alerts_in_its_time(checkout, tmp_path, rules, offends):
    """Goal: after the time that it gives, with what it is for, and with nothing less. Method: promtool's own clock."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian's package `prometheus` has it)")
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert set(names) == set(SERIES)
    tests = []
    for name, series in SERIES.items():
        if not offends:
            calm = {"DespinaDown": "1x60", "DespinaReleasesDiffer": None}.get(name, "0x60")
            series = series[1:] if calm is None else [(series[0][0], calm), *series[1:]]
            if name == "DespinaSlow":
                series = [(text, "0+10x60") for text, _ in series]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": text, "values": values} for text, values in series],
                "promql_expr_test": [
                    {
                        "expr": f"count by (alertname) (ALERTS{{alertname='{name}',alertstate='firing'}})",
                        "eval_time": "70m" if name == "DespinaReleasesDiffer" else "30m",
                        "exp_samples": [{"labels": f"{{alertname='{name}'}}", "value": 1}] if offends else [],
                    }
                ],
            }
        )
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(checkout / FOLDER / "alerts.yaml")], "tests": tests})
    )
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """It scrapes one server twice a second, with the rules that alert at once."""

    def __init__(self, folder, rules, target):
        (folder / "alerts.yaml").write_text(re.sub(r"\n +for: \w+", "", rules))
        (folder / "prometheus.yaml").write_text(
            "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\nrule_files: [alerts.yaml]\n"
            f"scrape_configs: [{{job_name: despina, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api/v1"
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            stdout=(folder / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
        until(self._is_up)

    def _is_up(self):
        try:
            return self.get("query", query="up")
        except (urllib.error.URLError, ConnectionError):
            return None

    def get(self, path, **parameters):
        url = f"{self.url}/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=WAIT_S) as reply:
            answer = json.loads(reply.read())
        assert answer["status"] == "success", answer
        data = answer["data"]
        return data["result"] if isinstance(data, dict) and "result" in data else data

    def numbers(self, query):
        """What it says of a query, without what is no number."""
        return [each for each in self.get("query", query=query) if each["value"][1] != "NaN"]

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}

    def close(self):
        self._process.terminate()
        self._process.wait(WAIT_S)


@pytest.fixture(scope="module")
def prometheus(loaded, checkout, tmp_path_factory):
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus here (Debian's package `prometheus` has it)")
    rules = (checkout / FOLDER / "alerts.yaml").read_text()
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), rules, loaded.metrics)
    yield running
    running.close()


def test_every_panel_shows_something(prometheus, dashboard):
    """Goal: each query of the dashboard is one that Prometheus takes, and has data from a server under load."""
    waiting = queries(dashboard)
    for name, query in list(waiting.items()):
        if any(family in query for family in ELSEWHERE):
            prometheus.numbers(waiting.pop(name))
    assert len(waiting) > 20

    def found():
        for name in list(waiting):
            if prometheus.numbers(waiting[name]):
                del waiting[name]
        return not waiting

    try:
        until(found)
    except AssertionError:
        pytest.fail(f"nothing for {waiting}")


def test_what_the_variables_list(prometheus, dashboard):
    """Goal: Grafana's choices of job, server and model are there."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            family, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            series = prometheus.get("series", **{"match[]": filled(family)})
            assert any(label in each for each in series), variable["name"]


def test_exemplars_lead_to_traces(prometheus):
    """Goal: Prometheus asks for OpenMetrics by itself, gets it, and keeps the traces of the latency histogram."""
    end = time.time() + 3600

    def found():
        query = {"query": "despina_request_duration_seconds_bucket", "start": end - 7200, "end": end}
        return [each for series in prometheus.get("query_exemplars", **query) for each in series["exemplars"]]

    assert {each["labels"]["trace_id"] for each in until(found)} == {TRACE}


def test_rules_alert(prometheus, rules):
    """Goal: Prometheus takes each rule, what it compares has data, and those that this load offends alert."""
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            assert not rule.get("lastError"), rule
    for group in rules["groups"]:
        for rule in group["rules"]:
            compared = without_limit(rule["expr"])
            try:
                until(lambda query=compared: prometheus.numbers(query))
            except AssertionError:
                pytest.fail(f"nothing for {rule['alert']}: {compared}")
    offended = {"DespinaRefusesRequests", "DespinaModelFails", "DespinaTooLate", "DespinaSlow"}
    try:
        until(lambda: offended <= prometheus.firing())
    except AssertionError:
        pytest.fail(f"no alert: {offended - prometheus.firing()}")


def test_a_server_that_is_gone(prometheus, loaded):
    """Goal: last of all, the alert for a server that has died. Method: kill it."""
    assert "DespinaDown" not in prometheus.firing()
    loaded.process.kill()
    loaded.process.wait(WAIT_S)
    until(lambda: "DespinaDown" in prometheus.firing())
