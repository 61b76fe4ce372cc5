"""The chart of examples/deploy/helm: rendered by Helm's own code, checked by Kubernetes' own schemas, and the command
that it starts."""

from __future__ import annotations

import copy
import http.client
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from despina.frontends.cli.command_line import read_command_line
from despina.frontends.cli.settings import settle

from tests.conformance.inputs import sums
from tests.conformance.processes import command, started

if importlib.util.find_spec("helm_python") is None:
    pytest.skip("needs Helm's renderer (pip install helm-python-sdk)", allow_module_level=True)
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="needs schemas (pip install kubernetes-validate)"
)
yaml = pytest.importorskip("yaml")

CHART = Path(__file__).resolve().parents[2] / "examples" / "deploy" / "helm"
EXAMPLES = CHART.parents[1] / "models"
KUBERNETES = ("1.29", "1.33")
VOLUME = {
    "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}],
    "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    "env": [{"name": "DESPINA_LOG_VERBOSE", "value": "1"}],
    "podAnnotations": {"team": "ml"},
    "imagePullSecrets": [{"name": "registry"}],
    "affinity": {"nodeAffinity": {}},
    "serviceAccount": {"create": False, "name": "theirs"},
    "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
}
CASES = ["default", "gke", "eks", "volume"]


def values(case):
    if case in ("gke", "eks"):
        return yaml.safe_load((CHART / f"values-{case}.yaml").read_text())
    return copy.deepcopy(VOLUME) if case == "volume" else {}


def asked_of_helm(ask, given, name="triton"):
    """What helm_renderer.py answers."""
    question = json.dumps({"ask": ask, "chart": str(CHART), "values": given, "name": name})
    program = [sys.executable, "-m", "tests.deploy.helm_renderer"]
    done = subprocess.run(
        program, input=question, capture_output=True, text=True, timeout=60, check=True, cwd=CHART.parents[2]
    )
    return json.loads(done.stdout)


def rendered(given, name="triton"):
    """The objects by their kind."""
    files = asked_of_helm("render", given, name)
    objects = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    assert len({one["kind"] for one in objects}) == len(objects)
    return {one["kind"]: one for one in objects}


@pytest.mark.parametrize("case", CASES)
def test_chart_is_well_formed(case):
    """Goal: Helm's linter has no warning; each object is what Kubernetes takes, and no field is unknown."""
    report = asked_of_helm("lint", values(case))
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] > 1] == []
    for one in rendered(values(case)).values():
        for version in KUBERNETES:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    "given",
    [
        {"modelRepositories": []},
        {"modelRepositories": ["models"]},
        {"replica": 2},
        {"autoscaling": {"queueMicroseconds": 0}},
        {"service": {"httpPort": 70000}},
        {"extraArgs": ["model-control-mode=poll"]},
    ],
)
def test_values_that_make_no_sense(given):
    """Goal: a slip in a values file is refused before anything is installed."""
    assert asked_of_helm("validate", given)


@pytest.mark.parametrize("case", CASES)
def test_objects_fit_together(case):
    """Goal: what names another object, port, label or volume names one that there is; of autoscaling and a number of
    replicas there is one."""
    found = rendered(values(case))
    deployment, service = found["Deployment"], found["Service"]
    template = deployment["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"].items()
    (container,) = pod["containers"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    selectors.append(found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    selectors.append(found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    selectors += [one["labelSelector"]["matchLabels"] for one in pod.get("topologySpreadConstraints", ())]
    assert all(selector.items() <= labels for selector in selectors)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    named = [one["targetPort"] for one in service["spec"]["ports"]]
    named += [container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness", "readiness")]
    named += [one["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for one in rule["ports"]]
    assert set(named) == set(ports)
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    mounts = {one["name"]: one for one in container["volumeMounts"]}
    assert set(mounts) == {one["name"] for one in pod["volumes"]}
    assert {"/tmp", "/dev/shm"} <= {one["mountPath"] for one in mounts.values()}
    assert all(one["readOnly"] for name, one in mounts.items() if name not in ("tmp", "shm"))
    account = found["ServiceAccount"]["metadata"]["name"] if "ServiceAccount" in found else "theirs"
    assert pod["serviceAccountName"] == account
    assert ("HorizontalPodAutoscaler" in found) is ("replicas" not in deployment["spec"])
    if "HorizontalPodAutoscaler" in found:
        target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    if case in ("gke", "eks"):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["nodeSelector"]
        assert any(one["key"] == "nvidia.com/gpu" for one in pod["tolerations"])
        assert found["ServiceAccount"]["metadata"]["annotations"]


@pytest.mark.parametrize("case", CASES)
def test_pods_have_few_rights(case):
    """Goal: what Kubernetes' strictest profile for pods asks for, and a root that is read-only."""
    pod = rendered(values(case))["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("case", CASES)
def test_command_is_understood(case):
    """Goal: each option of the rendered command is one that the server takes, on the ports that the pod names; the pod
    has more time to end than the server takes."""
    pod = rendered(values(case))["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    verb, *arguments = container["args"]
    read = read_command_line(arguments, {})
    settings = settle(read)
    assert (verb, read.warnings) == ("serve", [])
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert {name.lower(): port for name, _, port in settings.doors.open_doors()} == ports
    ending_s = settings.doors.lame_duck_secs + settings.engine.exit_timeout_secs
    assert settings.doors.lame_duck_secs > container["readinessProbe"]["periodSeconds"]
    assert pod["terminationGracePeriodSeconds"] > ending_s


def asked(port, path):
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_the_end_of_a_pod(tmp_path):
    """Goal: what the probes ask is answered; a pod that is told to end is not ready at once and serves on: callers of
    both doors, who keep their connections and go elsewhere a moment after it says so, as behind a load balancer, have
    not one request that fails. The metrics of the autoscaler are there. Method: the real command with the rendered
    options, a shorter lame duck, real clients."""
    found = rendered({"lameDuckSeconds": 2, "modelRepositories": [str(EXAMPLES)]})["Deployment"]["spec"]["template"]
    (container,) = found["spec"]["containers"]
    options = [one for one in container["args"][1:] if not one.startswith("--model-repository")]
    options += ["--model-control-mode=explicit", "--load-model=addsub"]
    with started(command(EXAMPLES, *options), tmp_path / "log") as server:
        server.place("Metrics Service")
        port, grpc_port = server.http_port, server.grpc_port
        metrics_port = int(server.place("Metrics Service").rpartition(":")[2])
        for probe in ("startup", "liveness", "readiness"):
            assert asked(port, container[f"{probe}Probe"]["httpGet"]["path"])[0] == 200
        gone, counts, failures = threading.Event(), [], []

        def call(module, address):
            count = 0
            try:
                with module.InferenceServerClient(address) as client:
                    while not gone.is_set():
                        answer = client.infer("addsub", sums(module, count))
                        assert np.array_equal(answer.as_numpy("OUTPUT0")[0, :1], [count])
                        count += 1
            except Exception as problem:
                failures.append(problem)
            counts.append(count)

        pairs = [(tritonclient.http, f"127.0.0.1:{port}"), (tritonclient.grpc, f"127.0.0.1:{grpc_port}")]
        callers = [threading.Thread(target=call, args=pair) for pair in pairs for _ in range(3)]
        for caller in callers:
            caller.start()
        server.terminate()
        begin = time.monotonic()
        while asked(port, "/v2/health/ready")[0] == 200:
            assert time.monotonic() - begin < 20
        assert asked(port, container["livenessProbe"]["httpGet"]["path"])[0] == 200
        time.sleep(0.5)  # until the load balancer has heard of it
        gone.set()
        for caller in callers:
            caller.join(30)
        rule = yaml.safe_load((CHART / "prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
        page = asked(metrics_port, "/metrics")[1]
        code, said = server.ended()
    assert failures == []
    assert min(counts) > 0
    assert code == 0, said
    families = set(re.findall(r"\bnv_\w+", rule["metricsQuery"] + rule["seriesQuery"]))
    assert families == {"nv_inference_queue_duration_us", "nv_inference_request_success"}
    assert all(f'{family}{{model="addsub"' in page for family in families)
    hpa = rendered({"autoscaling": {"enabled": True}})["HorizontalPodAutoscaler"]
    assert hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]


def test_the_time_that_pods_are_scaled_by(tmp_path):
    """Goal: the adapter's query gives microseconds per request of each pod, over all its models, and 0 where there was
    none. Method: promtool's own clock and series."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian's package `prometheus` has it)")
    rule = yaml.safe_load((CHART / "prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="ml",pod=~"busy|idle"')
    query = query.replace("<<.GroupBy>>", "pod")
    series = {
        'nv_inference_queue_duration_us{namespace="ml",pod="busy",model="a"}': "0+5000000x60",
        'nv_inference_queue_duration_us{namespace="ml",pod="busy",model="b"}': "0+1000000x60",
        'nv_inference_request_success{namespace="ml",pod="busy",model="a"}': "0+40x60",
        'nv_inference_request_success{namespace="ml",pod="busy",model="b"}': "0+80x60",
        'nv_inference_queue_duration_us{namespace="ml",pod="idle",model="a"}': "7x60",
        'nv_inference_request_success{namespace="ml",pod="idle",model="a"}': "7x60",
        'nv_inference_queue_duration_us{namespace="other",pod="busy",model="a"}': "0+9000000x60",
    }
    expected = [{"labels": '{pod="busy"}', "value": 50000}, {"labels": '{pod="idle"}', "value": 0}]
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": numbers} for name, numbers in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "10m", "exp_samples": expected}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
