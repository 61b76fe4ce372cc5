"""Plays many histories: `python -m tests.simulation --seeds 1000 [--first N]`. A failing seed is printed and fails."""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.simulation.simulation import simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            try:
                outcomes += simulate(seed, Path(directory, "models"))
            except BaseException:
                print(f"seed {seed} failed", file=sys.stderr)
                raise
    print(f"{options.seeds} histories: {dict(outcomes.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
