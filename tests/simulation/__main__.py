"""Plays many histories: `python -m tests.simulation --seeds 5000 [--first N]`. A failing seed is printed and fails."""

import argparse
import sys

from tests.simulation.mix import missing, shown
from tests.simulation.played import play, reached


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    failed = []
    for seed in range(options.first, options.first + options.seeds):
        try:
            play(seed)
        except Exception as error:
            failed.append(seed)
            print(f"seed {seed} failed: {first_line(error)}", file=sys.stderr)
    print(f"{options.seeds} histories, {len(failed)} failed\n{shown(reached())}")
    print(f"never reached: {', '.join(missing(reached())) or 'nothing that is wanted'}")
    if failed:
        print(f"to play one again: python -m tests.simulation --first {failed[0]} --seeds 1", file=sys.stderr)
    return 1 if failed else 0


def first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
