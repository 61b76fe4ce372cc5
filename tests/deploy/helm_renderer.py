"""Helm's own code, in a process of its own.

It is a library in Go, whose runtime handles the signals of the process that loads it, SIGPIPE too. Where faulthandler
has given the thread a small stack for handlers, and a framework has made the processor's state large, the next write to
a closed socket ends that process with a segmentation fault.

Reads a question as JSON, `{"ask": "render" | "lint" | "validate", "chart": …, "values": …, "name": …}`, and writes the
answer as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python as helm


def answer(question: dict[str, Any]) -> object:
    """Files by name, Helm's report, or why the values are refused (None where they are not)."""
    values = question["values"]
    if question["ask"] == "lint":
        return helm.lint(question["chart"], values, strict=True)
    with helm.Chart.load(question["chart"]) as chart:
        if question["ask"] == "render":
            return chart.render(values, name=question["name"], namespace="ml")
        try:
            chart.validate_schema(values)
        except helm.HelmValuesError as refusal:
            return str(refusal)
    return None


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
