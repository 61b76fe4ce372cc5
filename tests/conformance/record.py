"""Records the reference server's answers into golden/: `python tests/conformance/record.py [SUITE ...]`.

Each suite is asked twice, of two fresh servers: an answer that differs between them (which of several bad inputs is
named depends on a hash order) is not worth a test and is left out; its probe is printed, to be sharpened.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.conformance.cloud_probes import CLOUD_SUITES, CloudSuite
from tests.conformance.comparison import canonical
from tests.conformance.metrics_suite import MetricsSuite
from tests.conformance.servers import reference_script, running_reference
from tests.conformance.suites import SUITES, Suite


def main() -> None:
    """Records every suite, or those that are named."""
    if reference_script() is None:
        raise SystemExit("no reference server here: set DESPINA_REFERENCE_TRITON to the script that runs it")
    for suite in (*SUITES, *CLOUD_SUITES):
        if len(sys.argv) == 1 or suite.name in sys.argv[1:]:
            record(suite)


def record(suite: Suite | MetricsSuite | CloudSuite) -> None:
    """Asks twice and writes what was steady."""
    first, second = answers(suite), answers(suite)
    steady = {name: answer for name, answer in first.items() if canonical(answer) == canonical(second[name])}
    for name in first.keys() - steady.keys():
        print(f"{suite.name}: not steady, left out: {name}\n  {first[name]}\n  {second[name]}")
    suite.golden.parent.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(answer, sort_keys=True)}" for name, answer in steady.items()]
    suite.golden.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{suite.name}: {len(steady)} answers in {suite.golden.name}")


def answers(suite: Suite | MetricsSuite | CloudSuite) -> dict[str, Any]:
    """One fresh server's answers."""
    if isinstance(suite, CloudSuite):
        with tempfile.TemporaryDirectory() as folder:
            return suite.answers(Path(folder), reference=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_reference(suite.models, Path(folder), suite.options) as server,
    ):
        return suite.ask(server)


if __name__ == "__main__":
    main()
