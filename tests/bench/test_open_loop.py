"""Fixed rates: when requests are due, what waits say, and the pictures' figures."""

from __future__ import annotations

import json
import socket
import sys
from itertools import pairwise

import pytest

from tests.bench import open_loop, plot
from tests.bench.arrivals import ARRIVALS, Waits, due_times, flood, together
from tests.bench.figures import figures
from tests.bench.load import WrongAnswer


class Unhurried:
    """A caller whose server answers when the test says so."""

    def __init__(self, log, holds=None):
        self.connection, self._server = socket.socketpair()
        self.pool = ()
        self._log = log
        self._holds = holds

    def start(self):
        self._log.append(self)
        if self._holds is None or len(self._log) not in self._holds:
            self.answer()

    def answer(self):
        self._server.send(b"!")

    def wants_to_write(self):
        return False

    def writable(self):
        raise AssertionError("nothing waits")

    def readable(self):
        return self.connection.recv(1) == b"!"


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_arrivals_are_as_many_as_the_rate_says_and_the_same_for_one_seed(arrivals):
    """Goal: due times that depend on rate, time and seed alone. Method: many of them, in order, within the time."""
    times = due_times(2000, 10, arrivals, 1)
    assert times == sorted(times) == due_times(2000, 10, arrivals, 1)
    assert 0 <= times[0] <= times[-1] < 10
    assert abs(len(times) - 20_000) < 1_000
    assert (times == due_times(2000, 10, arrivals, 2)) is (arrivals == "even")
    assert len(due_times(0.001, 0.1, arrivals, 1)) == 1


def test_random_arrivals_come_in_bursts_and_even_ones_do_not():
    """Goal: what distinguishes the two. Method: the spread of distances, beside their mean: 1 and 0."""
    for arrivals, spread in (("random", 1.0), ("even", 0.0)):
        times = due_times(1000, 20, arrivals, 3)
        distances = [later - earlier for earlier, later in pairwise(times)]
        mean = sum(distances) / len(distances)
        deviation = (sum((one - mean) ** 2 for one in distances) / len(distances)) ** 0.5
        assert deviation / mean == pytest.approx(spread, abs=0.1)


def test_a_wait_begins_when_its_request_is_due_and_not_when_it_is_sent():
    """Goal: nobody's wait is left out because somebody before him waited. Method: one connection, whose first request
    that counts is held until all the others have been due for long; an hour of them, in the past."""
    log = []
    caller = Unhurried(log)
    waits = flood([caller], [-3600.0 + index for index in range(5)], None)
    assert len(log) == 1 + 5  # one before it counts
    assert waits.seconds[0] >= 3596
    assert waits.seconds[-1] >= 3600
    assert waits.late[-1] >= 3600
    assert waits.cpu_us is None


def test_requests_go_out_though_those_before_are_not_answered():
    """Goal: an open loop. Method: two connections, of which one's answer comes only once the other has been asked."""
    log = []

    class Second(Unhurried):
        def start(self):
            super().start()
            if len(log) == 4:
                log[2].answer()

    callers = [Unhurried(log, holds={3}), Second(log)]
    waits = flood(callers, [0.0, 0.0], None)
    assert log[2] is callers[0]
    assert log[3] is callers[1]
    assert len(waits.seconds) == 2


def test_a_server_that_never_answers_stops_the_run(monkeypatch):
    """Goal: no run waits for ever."""
    monkeypatch.setattr("tests.bench.arrivals.PATIENCE_S", 0.05)
    with pytest.raises(WrongAnswer, match="no answer"):
        flood([Unhurried([], holds={2})], [0.0], None)


def test_shares_of_waits():
    """Goal: 0.99 is the wait that 99 of 100 requests do not exceed; several runs count as one."""
    first = Waits([one / 1e3 for one in range(1, 51)], [0.0] * 50, 1.0, 10.0)
    other = Waits([one / 1e3 for one in range(51, 101)], [0.0] * 50, 1.0, 20.0)
    both = together([other, first])
    assert [round(both.within_ms(share)) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 50, 99, 100, 100]
    assert both.cpu_us == 15.0
    assert both.lasted_s == 2.0


def test_the_table_is_printed_written_and_its_figures_prepared(capsys, monkeypatch, tmp_path):
    """Goal: both doors, each of our servers, at the slower one's rate and at their own. Method: short runs of few
    questions, answers checked."""
    monkeypatch.setattr(open_loop, "reference_script", lambda: None)
    monkeypatch.setattr("tests.bench.traffic.QUESTIONS", 32)
    wanted = ["--models", "Python add/sub", "ONNX add/sub", "--arrivals", "even", "--json", str(tmp_path / "w")]
    open_loop.main([*wanted, "--seconds", "0.1", "--turns", "1", "--shares", "0.1", "--connections", "4"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| even")]
    told = json.loads((tmp_path / "w").read_text())
    assert len(rows) == len(told["waits"]) == 2 * (2 + 2 + 1)
    assert all(row["requests"] > 0 and row["within_ms"][-1][1] > 0 for row in told["waits"])
    prepared = figures(told)
    assert [one.name for one in prepared] == ["waits-even-10-of-slower", "waits-even-10-of-own"]
    assert [panel.title for panel in prepared[0].panels] == ["Python add/sub over HTTP", "Python add/sub over gRPC"]
    assert len(prepared[0].panels[0].series) == 2


def test_figures_of_costs():
    """Goal: a figure for each door, a panel for each number of callers, a gap where a server was not measured."""
    servers = {"Despina": {"cpu_us": 10.0}, "floor": {"cpu_us": 3.0}}
    rows = [
        {"protocol": door, "case": case, "callers": callers, "servers": servers if case == "a" else {"Despina": {}}}
        for door in ("http", "grpc")
        for case in ("a", "b")
        for callers in (1, 8)
    ]
    http, grpc = figures({"rows": rows, "cores": 2, "load average": 1.2})
    assert (http.name, grpc.name) == ("cost-http", "cost-grpc")
    assert [panel.title for panel in http.panels] == ["1 caller", "8 callers"]
    ours, floor = http.panels[1].series
    assert (ours.name, ours.x, ours.y) == ("Despina", ["a", "b"], [10.0, None])
    assert (floor.name, floor.y) == ("floor", [3.0, None])


def test_figures_of_scale():
    """Goal: CPU each, memory held and left, and what else was measured."""
    points = [
        {"size": size, "cpu_s": size / 1e3, "kib": 1024 * size, "kib_left": 0, "more": {"index": 0.5}}
        for size in (1, 2, 4)
    ]
    cpu, memory, parts = figures({"curves": {"models": points}, "load average": 0.0})
    assert cpu.panels[0].series[0].y == [1.0, 1.0, 1.0]
    assert [series.y for series in memory.panels[0].series] == [[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]
    assert parts.panels[0].series[0].y == [500.0, 500.0, 500.0]


def test_a_file_of_something_else_is_refused():
    """Goal: whoever names the wrong file is told so."""
    with pytest.raises(ValueError, match=r"not written by open_loop\.py"):
        figures({"models": []})


def test_without_matplotlib_its_extra_is_named(monkeypatch, tmp_path):
    """Goal: who has not installed it learns how."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"despina\[bench\]"):
        plot.main([str(tmp_path / "none.json")])
