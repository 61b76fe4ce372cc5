"""This project's answers against the reference server's, probe by probe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.comparison import canonical
from tests.conformance.http_exchange import http_answer
from tests.conformance.http_probes import deadly_probes
from tests.conformance.known_differences import KNOWN_DIFFERENCES, matches, reason
from tests.conformance.metrics_suite import MetricsSuite
from tests.conformance.servers import (
    asked_again,
    reference_script,
    running_despina,
    running_in_process,
    running_reference,
)
from tests.conformance.suites import SUITES, Suite

BY_NAME = {suite.name: suite for suite in SUITES}
CASES = [(suite.name, name) for suite in SUITES for name in json.loads(suite.golden.read_text())]


class Answers:
    """Every suite's answers of this project's server, asked once."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._answers: dict[str, dict[str, Any]] = {}

    def of(self, suite: Suite | MetricsSuite) -> dict[str, Any]:
        """All answers of one suite; the first call asks."""
        if suite.name not in self._answers:
            folder = self._folders.mktemp(suite.name)
            running = running_in_process if "doors" in suite.name else running_despina
            with running(suite.models, folder, suite.options) as server:
                self._answers[suite.name] = suite.ask(server)
        return self._answers[suite.name]


@pytest.fixture(scope="session")
def answers(tmp_path_factory) -> Answers:
    """This project's answers."""
    return Answers(tmp_path_factory)


@pytest.fixture(scope="session")
def golden() -> dict[str, dict[str, Any]]:
    """The reference server's recorded answers."""
    return {suite.name: json.loads(suite.golden.read_text()) for suite in SUITES}


@pytest.mark.parametrize(("suite", "probe"), CASES, ids=[f"{suite}: {probe}" for suite, probe in CASES])
def test_answers_equal_the_reference_servers(suite, probe, answers, golden):
    """Goal: same status, same members, same words, unless the table of known differences says why not."""
    if reason(suite, probe) is None:
        assert canonical(answers.of(BY_NAME[suite])[probe]) == canonical(golden[suite][probe])


def test_every_known_difference_exists(answers, golden):
    """Goal: the table of known differences stays true. Method: each of its entries must match a probe that differs."""
    differing = [
        (suite, probe)
        for suite in BY_NAME
        for probe, expected in golden[suite].items()
        if canonical(expected) != canonical(answers.of(BY_NAME[suite])[probe])
    ]
    idle = [key for key in KNOWN_DIFFERENCES if not any(matches(key, *one) for one in differing)]
    assert not idle, "\n".join(map(str, idle))


def test_what_the_reference_server_dies_of_is_refused_here(tmp_path):
    """Goal: requests that kill or hang the reference server get an error, and the next request is served."""
    with running_despina(BY_NAME["http"].models, tmp_path) as server:
        for probe in deadly_probes():
            answer = http_answer(server.http_port, probe)
            assert "silent" not in answer, probe.name
            assert answer.get("closed") or answer["status"] >= 400, probe.name
        live = http_answer(server.http_port, next(iter(BY_NAME["http"].probes())))
        assert live["status"] == 200


@pytest.mark.records
@pytest.mark.skipif(reference_script() is None, reason="no reference server here (DESPINA_REFERENCE_TRITON)")
@pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])
def test_records_are_what_the_reference_server_says(suite, tmp_path, golden):
    """Goal: the recorded answers are the reference server's. Method: ask it again."""
    recorded = {name: canonical(answer) for name, answer in golden[suite.name].items()}

    def ask(folder):
        with running_reference(suite.models, folder, suite.options) as server:
            return {name: canonical(answer) for name, answer in suite.ask(server).items()}

    said = asked_again(ask, recorded, tmp_path)
    assert {name for name, answer in recorded.items() if said[name] != answer} == set()
