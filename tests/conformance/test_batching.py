"""The dynamic batcher through Triton's own clients, on both doors: the reference server's answers, recorded, and ours.

Each story has a model of its own that says which requests it got together. The first request keeps it busy while the
others arrive one after another. All models have a queue policy: without one the reference server forms batches ahead.
`python -m tests.conformance.test_batching` records the reference server's answers anew.
"""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import gevent
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conformance.servers import asked_again, reference_script, running_in_process, running_reference

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden" / "batching.json"
CONFIG = """backend: "python"
max_batch_size: %d
input [%s]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
%s
"""
A = '{ name: "A" data_type: TYPE_INT32 dims: [1] }'
OPTIONAL = A + ', { name: "B" data_type: TYPE_INT32 dims: [1] optional: true }'
WIDE = '{ name: "A" data_type: TYPE_INT32 dims: [-1] %s }'
BOUND = "default_queue_policy { max_queue_size: 100 }"
GAP_S = 0.08
BUSY_MS = 3000
"""More than the timeouts and the half second that may pass until the reference server looks at them, and as far from
the arrival of the last request of a story as from the end of its timeout."""
MODELS = {
    "levels": (4, A, f"dynamic_batching {{ priority_levels: 3 default_priority_level: 2 {BOUND} }}"),
    "one_level": (4, A, f"dynamic_batching {{ {BOUND} }}"),
    "policies": (
        1,
        A,
        """dynamic_batching {
  priority_levels: 3 default_priority_level: 3
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 10000000 }
  priority_queue_policy { key: 1 value { timeout_action: REJECT default_timeout_microseconds: 1500000 } }
  priority_queue_policy { key: 2 value { timeout_action: DELAY default_timeout_microseconds: 1500000 } }
}""",
    ),
    "sizes": (
        1,
        A,
        """dynamic_batching {
  priority_levels: 2 default_priority_level: 2
  default_queue_policy { max_queue_size: 2 }
  priority_queue_policy { key: 1 value { max_queue_size: 1 } }
}""",
    ),
    "override": (
        1,
        A,
        """dynamic_batching {
  default_queue_policy { default_timeout_microseconds: 5000000 allow_timeout_override: true max_queue_size: 100 }
}""",
    ),
    "no_override": (
        1,
        A,
        "dynamic_batching { default_queue_policy { default_timeout_microseconds: 5000000 max_queue_size: 100 } }",
    ),
    "no_default": (
        1,
        A,
        "dynamic_batching { default_queue_policy { allow_timeout_override: true max_queue_size: 100 } }",
    ),
    "optional": (8, OPTIONAL, f"dynamic_batching {{ {BOUND} }}"),
    "wide": (8, WIDE % "", f"dynamic_batching {{ {BOUND} }}"),
    "ragged": (8, WIDE % "allow_ragged_batch: true", f"dynamic_batching {{ {BOUND} }}"),
    "told": (
        8,
        WIDE % "allow_ragged_batch: true",
        f"dynamic_batching {{ {BOUND} }}\n"
        'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "COUNT" data_type: TYPE_INT32 source_input: "A" }\n'
        'batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "OUT" source_input: "A" }',
    ),
    "preferred": (4, A, f"dynamic_batching {{ preferred_batch_size: [2, 3] {BOUND} }}"),
    "rows": (4, A, f"dynamic_batching {{ {BOUND} }}"),
    "default": (4, A, ""),
}
"""Name -> max_batch_size, inputs, scheduling."""

STORIES = {
    "levels": [{"priority": 3}, {"priority": 2}, {"priority": 1}, {}, {"priority": 9}, {"priority": 1}],
    "one_level": [{"priority": 3}, {"priority": 1}, {}],
    "policies": [
        {"priority": 1},
        {"priority": 2},
        {"priority": 3},
        {},
        {"after_s": 1.86, "priority": 2},
        {"priority": 1},
    ],
    "sizes": [{"priority": 1}, {"priority": 1}, {"priority": 2}, {}, {"priority": 2}],
    "override": [{"timeout": 200_000}, {"timeout": 60_000_000}, {}],
    "no_override": [{"timeout": 200_000}, {"timeout": 60_000_000}, {}],
    "no_default": [{"timeout": 200_000}, {}],
    "optional": [{}, {}, {"B": 1}, {"B": 1}, {}, {"B": 1, "only": "B"}, {"B": 1, "only": ""}],
    "wide": [{"width": 3}, {"width": 3}, {"width": 5}, {"width": 3}],
    "ragged": [{"width": 3}, {"width": 5}, {"width": 3, "rows": 2}],
    "told": [{"width": 3}, {"width": 5}],
    "preferred": [{}, {}, {}, {}, {}],
    "rows": [{"rows": 3}, {"rows": 2}, {"rows": 1}, {"rows": 1}, {"rows": 5}],
    "default": [{}, {}, {"timeout": 100_000}, {"priority": 1}],
}
"""Model -> what is sent while it is busy, each GAP_S after the one before."""

CLIENTS = {"http": triton_http, "grpc": triton_grpc}


def batching_models(folder):
    """A repository of the models in `folder`."""
    for name, settings in MODELS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        shutil.copy(HERE / "batching_model.py", version / "model.py")
        (version.parent / "config.pbtxt").write_text(CONFIG % settings)
    return folder / "models"


def inputs_of(module, *, held_ms=0, width=1, rows=1, B=None, only="AB", **_):
    inputs = []
    for name, value in (("A", held_ms), ("B", B)):
        if value is not None and name in only:
            values = np.full([rows, width], value, np.int32)
            tensor = module.InferInput(name, list(values.shape), "INT32")
            tensor.set_data_from_numpy(values)
            inputs.append(tensor)
    return inputs


def answer_of(ask):
    """The text, or the error's."""
    try:
        return ask().as_numpy("OUT").ravel()[0].decode()
    except Exception as error:
        return f"error: {error}"


def told(server, door, model):
    """A story: what each of its requests was answered. One thread and one client send it, so that its order is kept."""
    module = CLIENTS[door]
    story = [{"held_ms": BUSY_MS}, *STORIES[model]]
    address = f"127.0.0.1:{getattr(server, f'{door}_port')}"
    pause, more = (gevent.sleep, {"concurrency": len(story)}) if door == "http" else (time.sleep, {})
    with module.InferenceServerClient(address, **more) as client:
        assert client.is_server_live()
        asking = {}
        for index, options in enumerate(story):
            pause(options.get("after_s", GAP_S))
            id = f"r{index - 1}" if index else "busy"
            protocol = {name: options[name] for name in ("priority", "timeout") if name in options}
            ask = partial(client.async_infer, model, inputs_of(module, **options), request_id=id, **protocol)
            if door == "http":
                asking[id] = ask().get_result
            else:
                future: Future = Future()
                ask(callback=lambda result, error, future=future: settle(future, result, error))
                asking[id] = partial(future.result, 30)
        return {id: answer_of(ask) for id, ask in asking.items()}


def settle(future, result, error):
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def counted(server, model):
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        (stats,) = client.get_inference_statistics(model)["model_stats"]
    return {
        "inference_count": stats["inference_count"],
        "execution_count": stats["execution_count"],
        "success": stats["inference_stats"]["success"]["count"],
        "fail": stats["inference_stats"]["fail"]["count"],
        "batches": {str(row["batch_size"]): row["compute_infer"]["count"] for row in stats["batch_stats"]},
    }


def stories(server):
    """Door and model -> the story. All models of a door at once: each has an instance of its own."""
    found = {}
    for door in CLIENTS:
        with ThreadPoolExecutor(len(STORIES)) as pool:
            asking = {model: pool.submit(told, server, door, model) for model in STORIES}
            found |= {f"{door} {model}": answer.result() for model, answer in asking.items()}
    return found | {f"statistics {model}": counted(server, model) for model in STORIES}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return asked_again(despina, json.loads(GOLDEN.read_text()), tmp_path_factory.mktemp("batching"))


@pytest.mark.parametrize("model", STORIES)
@pytest.mark.parametrize("about", [*CLIENTS, "statistics"])
def test_stories_end_as_with_the_reference_server(ours, about, model):
    """Goal: the same batches, order, texts and counts as recorded."""
    assert ours[f"{about} {model}"] == json.loads(GOLDEN.read_text())[f"{about} {model}"]


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
def test_records_are_what_the_reference_server_says(tmp_path):
    """Goal: the recorded answers are the reference server's. Method: ask it again."""
    recorded = json.loads(GOLDEN.read_text())
    assert asked_again(reference, recorded, tmp_path) == recorded


def despina(folder: Path) -> dict:
    with running_in_process(batching_models(folder), folder) as server:
        return stories(server)


def reference(folder: Path) -> dict:
    with running_reference(batching_models(folder), folder) as server:
        return stories(server)


def record(folder: Path) -> None:
    """Writes what the reference server says."""
    GOLDEN.write_text(json.dumps(reference(folder), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        record(Path(name))
