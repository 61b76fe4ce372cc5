"""The engine inside a trio program, without any server: `python examples/04_embed_in_trio.py`.

Needs `pip install 'despina[cpu]'`.
"""

from pathlib import Path

import despina
import numpy as np
import trio

MODELS = Path(__file__).resolve().parent / "models"


async def main() -> None:
    """Many concurrent calls: the engine batches what waits at the same time."""
    async with despina.open_engine(MODELS, model_control_mode="explicit", load_model=["addsub", "file_type"]) as engine:
        ones = np.ones((1, 16), np.int32)

        async def add(number: int) -> None:
            result = await engine.infer("addsub", {"INPUT0": ones * number, "INPUT1": ones}, timeout=5)
            assert result["OUTPUT0"][0, 0] == number + 1

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(add, number)
        (statistics,) = engine.statistics("addsub")
        print(f"{statistics.inference_count} inferences in {statistics.execution_count} executions")

        content = np.array([[await trio.Path(__file__).read_bytes()]], np.object_)
        result = await engine.infer("file_type", {"CONTENT": content})
        print("this file is", result["LABEL"][0, 0].decode())


trio.run(main)
