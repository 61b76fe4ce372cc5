"""examples/ray_serve.py on a local Ray: `ray_session.py EXAMPLES REPOSITORY HTTP_PORT`; REPOSITORY has the model `nap`.

Run by a Python that has ray and despina, in a process of its own. Prints a line for each thing that held.
"""

import asyncio
import json
import os
import sys
import time
import urllib.error
import urllib.request

import numpy as np

os.environ["RAY_AUTH_MODE"] = "disabled"  # nobody else can reach it, and nothing is written to the home directory
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import serve

WAIT_S = 60
AT_ONCE = 24
APPLICATION = "naps"


def posted(url, body):
    """Status and JSON of the answer."""
    try:
        with urllib.request.urlopen(url, body, timeout=WAIT_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def check_http(url):
    """The example as it is: an answer, and refusals in words."""
    row = list(range(16))
    status, answer = posted(url, json.dumps({"INPUT0": [row], "INPUT1": [row]}).encode())
    assert (status, answer["OUTPUT0"]) == (200, [[2 * value for value in row]]), answer
    for body in (b"no JSON", b"[1]", b'{"OTHER": [1]}', b'{"INPUT0": [[1]]}', b'{"INPUT0": ["x"]}'):
        status, answer = posted(url, body)
        assert status == 400, (status, answer)
        assert answer["error"]
    print("http")


async def ask(handle, until):
    """Callers that ask one after the other until `until()` holds; each answer is its own caller's."""
    ends = time.monotonic() + WAIT_S

    async def call(caller):
        while not until() and time.monotonic() < ends:
            answer = await handle.infer.remote({"ROW": np.full((1, 2), caller, np.int32)})
            assert (answer["SAME"] == caller).all(), answer

    await asyncio.gather(*(call(caller) for caller in range(AT_ONCE)))


def running():
    """Replicas of the second application that run."""
    (deployment,) = serve.status().applications[APPLICATION].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


def check_batches(handle):
    """Requests under way at a time in one replica share executions: counted by its engine, before it gets company."""
    ends = time.monotonic() + 2
    asyncio.run(ask(handle, lambda: time.monotonic() > ends))
    rows, executions = handle.counts.remote().result()
    assert rows >= 2 * executions > 0, (rows, executions)
    print("batches")


def check_replicas(handle):
    """More requests under way than one replica shall have bring another; both answer."""
    asyncio.run(ask(handle, lambda: running() >= 2))
    assert running() >= 2, serve.status()
    print("replicas")


def main():
    examples, repository, port = sys.argv[1:]
    sys.path.insert(0, examples)
    import ray_serve

    ray.init(num_cpus=6, include_dashboard=False, logging_level="WARNING")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(ray_serve.app, name="addsub", route_prefix="/addsub")
    check_http(f"http://127.0.0.1:{port}/addsub")
    options = {"backend_config": {"python": {"isolation": "none"}}}
    model = ray_serve.Model.options(autoscaling_config={**SCALING, "max_replicas": 1})
    handle = serve.run(model.bind(repository, "nap", **options), name=APPLICATION, route_prefix=None)
    check_batches(handle)
    model = ray_serve.Model.options(autoscaling_config={**SCALING, "max_replicas": 2})
    handle = serve.run(model.bind(repository, "nap", **options), name=APPLICATION, route_prefix=None)
    check_replicas(handle)
    serve.shutdown()
    ray.shutdown()
    print("stopped")


SCALING = {
    "min_replicas": 1,
    "target_ongoing_requests": 4,
    "upscale_delay_s": 0,
    "metrics_interval_s": 0.2,
    "look_back_period_s": 1,
}

if __name__ == "__main__":
    main()
