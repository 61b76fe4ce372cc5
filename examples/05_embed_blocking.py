"""The engine inside an ordinary threaded program: `python examples/05_embed_blocking.py`.

Needs `pip install 'despina[cpu]'`.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import despina
import numpy as np

MODELS = Path(__file__).resolve().parent / "models"

with despina.blocking.open_engine(MODELS, model_control_mode="explicit", load_model=["addsub"]) as engine:
    left = np.arange(16, dtype=np.int32).reshape(1, 16)

    def add(number: int) -> int:
        """Any thread may call the engine."""
        return int(engine.infer("addsub", {"INPUT0": left, "INPUT1": left * number})["OUTPUT0"][0, 15])

    with ThreadPoolExecutor(4) as threads:
        print("15 + 15 n:", list(threads.map(add, range(8))))
