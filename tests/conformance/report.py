"""Prints where this server's answers differ from the records: `python tests/conformance/report.py [SUITE ...]`.

Differences that known_differences.py explains are only counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.conformance.comparison import canonical
from tests.conformance.known_differences import reason
from tests.conformance.metrics_suite import MetricsSuite
from tests.conformance.servers import running_despina
from tests.conformance.suites import SUITES, Suite

SHOWN_CHARACTERS = 500


def main() -> None:
    """Reports every suite, or those that are named."""
    for suite in SUITES:
        if len(sys.argv) == 1 or suite.name in sys.argv[1:]:
            report(suite)


def report(suite: Suite | MetricsSuite) -> None:
    """Asks one fresh server and prints what differs without a reason."""
    golden = json.loads(suite.golden.read_text())
    with tempfile.TemporaryDirectory() as folder, running_despina(suite.models, Path(folder), suite.options) as server:
        answers = suite.ask(server)
    differing = [name for name in golden if canonical(golden[name]) != canonical(answers[name])]
    unexplained = [name for name in differing if reason(suite.name, name) is None]
    for name in unexplained:
        expected, got = (json.dumps(side[name], sort_keys=True) for side in (golden, answers))
        same = next((at for at, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), 0)
        start = max(0, same - 100) if len(expected) > SHOWN_CHARACTERS else 0
        print(f"{suite.name}: {name}")
        print(f"  expected {expected[start : start + SHOWN_CHARACTERS]}")
        print(f"  got      {got[start : start + SHOWN_CHARACTERS]}")
    explained = len(differing) - len(unexplained)
    print(f"{suite.name}: {len(golden)} answers, {explained} known differences, {len(unexplained)} others\n")


if __name__ == "__main__":
    main()
