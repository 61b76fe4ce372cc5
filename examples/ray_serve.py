"""A Ray Serve deployment whose replicas each have an engine inside: `python examples/ray_serve.py`, or, to configure it
by a file, `serve run ray_serve:app` in this folder.

Needs `pip install 'despina[cpu]' 'ray[serve]'`.

    Ray's proxy ─▶ replica 1  engine: requests under way at a time become batches
        HTTP    ├▶ replica 2  ...      as many replicas as requests under way ask for
                └▶ ...

Ray decides how many replicas there are and on which machines; each engine batches what its replica has under way.
"""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import despina
import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

MODELS = Path(__file__).resolve().parent / "models"
ONGOING_MAX = 64
"""Requests under way in one replica; Ray keeps the others. More than a batch has, so that the next one is ready."""


@serve.deployment(
    max_ongoing_requests=ONGOING_MAX,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 16},
    ray_actor_options={"num_cpus": 1},  # with GPUs: "num_gpus": 1, and `instance_group` in the model's configuration
    health_check_period_s=5,
    graceful_shutdown_timeout_s=60,
)
class Model:
    """One model of a repository."""

    def __init__(self, repository: str, name: str, **options) -> None:
        """`options` are those of `despina.open_engine`. A replica that cannot load its model is not started."""
        self._name = name
        self._closing = contextlib.ExitStack()
        opened = despina.blocking.open_engine(repository, model_control_mode="explicit", load_model=[name], **options)
        self._engine = self._closing.enter_context(opened)
        self._threads = ThreadPoolExecutor(ONGOING_MAX)  # each waits for the answer to one request
        self._dtypes = {
            tensor.name: np.dtype(
                object if tensor.datatype == "BYTES" else tensor.datatype.lower().replace("fp", "float")
            )
            for tensor in self._engine.model_metadata(name).inputs
        }

    async def infer(self, inputs: dict[str, np.ndarray], **options) -> dict[str, np.ndarray]:
        """For other deployments: `await handle.infer.remote({"INPUT0": a, "INPUT1": b}, timeout=0.5)`. `options` are
        those of the engine's `infer`."""
        call = partial(self._engine.infer, self._name, inputs, **options)
        result = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return {output: result[output] for output in result}

    async def __call__(self, request: Request) -> JSONResponse:
        """For HTTP: `{"INPUT0": [[1, 2, ...]], ...}` in, `{"OUTPUT0": ...}` out."""
        try:
            given = await request.json()
            inputs = {name: np.array(values, self._dtypes[name]) for name, values in given.items()}
            outputs = await self.infer(inputs)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            return JSONResponse({"error": f"expected inputs {', '.join(self._dtypes)}: {problem}"}, 400)
        except despina.Fault as fault:
            return JSONResponse({"error": fault.message}, fault.http_status)
        return JSONResponse({name: output.tolist() for name, output in outputs.items()})

    def check_health(self) -> None:
        """Asked by Ray every few seconds. A replica that raises is replaced."""
        if not self._engine.is_ready():
            raise RuntimeError(f"{self._name} does not serve")

    def counts(self) -> tuple[int, int]:
        """Rows that were asked for, and executions that they took."""
        (of_model,) = self._engine.statistics(self._name)
        return of_model.inference_count, of_model.execution_count

    def __del__(self) -> None:
        self._closing.close()


app = Model.bind(str(MODELS), "addsub")

if __name__ == "__main__":
    serve.run(app, route_prefix="/addsub", blocking=True)
