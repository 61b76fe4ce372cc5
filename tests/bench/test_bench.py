"""The benchmark's machinery, run briefly: the answers are checked, the figures are not."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import trio

from tests.bench import channels, instructions, isolated, native_batch, overload, scale
from tests.bench.cases import known_cases
from tests.bench.grpc_caller import grpc_callers
from tests.bench.grpc_traffic import Call, grpc_asks
from tests.bench.http_caller import http_callers
from tests.bench.http_traffic import http_asks
from tests.bench.in_process import measure_case
from tests.bench.load import Ask, WrongAnswer, drive
from tests.bench.models import write_models
from tests.bench.run import main
from tests.bench.traffic import QUESTIONS, Row, known_rows
from tests.conformance.servers import running_in_process
from tests.native.conftest import include  # noqa: F401  # a fixture of those tests, for these, too

CALLERS = {"http": http_callers, "grpc": grpc_callers}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The benchmark's model repository."""
    folder = tmp_path_factory.mktemp("bench") / "models"
    write_models(folder)
    return folder


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    """A server over it."""
    with running_in_process(models, tmp_path_factory.mktemp("bench-server")) as running:
        yield running


@pytest.mark.parametrize("protocol", list(CALLERS))
@pytest.mark.parametrize("name", list(known_cases()))
def test_every_case_is_answered_rightly_under_load(server, protocol, name):
    """Goal: right answers at three callers, over either door. Method: the load generator refuses a wrong one."""
    port = server.http_port if protocol == "http" else server.grpc_port
    measured = drive(CALLERS[protocol](known_cases()[name], "127.0.0.1", port, 3), 0.2, 0.05, server.pid)
    assert measured.requests > 0
    assert measured.cpu_us is not None


@pytest.mark.parametrize("protocol", list(CALLERS))
def test_a_wrong_answer_stops_the_run(server, protocol):
    """Goal: the load generator notices. Method: expect something else than the model computes."""
    case = known_cases()["ONNX add/sub"]
    case.outputs["OUTPUT0"] = case.inputs["INPUT0"]
    port = server.http_port if protocol == "http" else server.grpc_port
    with pytest.raises(WrongAnswer, match="OUTPUT0"):
        drive(CALLERS[protocol](case, "127.0.0.1", port, 1), 0.2, 0.05, None)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("name", list(known_rows()))
def test_traffic_that_varies_is_answered_rightly(server, name, protocol):
    """Goal: right answers, each to the question that was asked, at three callers."""
    port = server.http_port if protocol == "http" else server.grpc_port
    measured = drive(CALLERS[protocol](known_rows()[name], "127.0.0.1", port, 3), 0.2, 0.05, server.pid)
    assert measured.requests > 0


def test_an_answer_to_another_question_stops_the_run(server):
    """Goal: answers are checked against their own questions. Method: ask one, expect what another has for answer."""
    (caller,) = http_callers(Row("ids", frozenset({"id"})), "127.0.0.1", server.http_port, 1)
    first, other = islice(caller._asks, 2)
    caller._asks = iter([Ask(first.request, other.check)] * 2)
    with pytest.raises(WrongAnswer, match="expected"):
        drive([caller], 0.2, 0.05, None)


def test_a_call_that_answers_another_question_stops_the_run(server):
    """Goal: the same over gRPC."""
    (caller,) = grpc_callers(Row("ids", frozenset({"id"})), "127.0.0.1", server.grpc_port, 1)
    first, other = islice(caller._calls, 2)
    caller._calls = iter([Call(first.request, other.check, first.own)] * 2)
    with pytest.raises(WrongAnswer, match="expected"):
        drive([caller], 0.2, 0.05, None)


def test_no_question_comes_twice_where_something_varies():
    """Goal: nothing that remembers whole requests is measured by mistake."""
    for row in known_rows().values():
        if row.varies - {"outputs"}:
            assert len({ask.request for ask in http_asks(row, "h")}) > QUESTIONS * 0.8, row.name
            assert len({call.request + call.own for call in grpc_asks(row, "h")[1]}) > QUESTIONS * 0.8, row.name


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_engine_in_process(executor, tmp_path):
    """Goal: the engine alone answers rightly at 1, 8 and 64 callers, on either executor."""
    write_models(tmp_path, ("onnx_addsub",))
    row = trio.run(measure_case, tmp_path, "ONNX add/sub", executor, 0.1)
    assert all(measured.requests > 0 for measured in row)


def test_the_table_is_printed_and_written(server, capsys, tmp_path):
    """Goal: a row with a figure for each server. Method: the server is its own opponent."""
    against = f"127.0.0.1:{server.http_port}:{server.grpc_port}:{server.pid}"
    wanted = ["--no-engine", "--cases", "ONNX add/sub", "--concurrency", "2", "--seconds", "0.2", "--turns", "1"]
    main([*wanted, "--against", against, "--json", str(tmp_path / "rows.json")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ONNX add/sub | 2 |")]
    assert len(rows) == 2
    written = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["protocol"] for row in written] == ["http", "grpc"]
    assert all(row["servers"]["other"]["requests"] > 0 for row in written)


def test_calls_and_channels(capsys):
    """Goal: both ways of carrying a request inside the engine answer rightly."""
    trio.run(channels.main, 0.05)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]  # others may log
    assert len(rows) == 2 + len(channels.CALLERS)


def test_overload(capsys):
    """Goal: the open loop brings requests over either door, and answers come, in either order."""
    overload.main(["--seconds", "0.5"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {callers}, {order}"
        for order in ("arrival", "adaptive")
        for callers in ("HTTP, leave after 50 ms", "gRPC, deadlines of 20 ms")
    ]
    assert all(int(row.split(" | ")[1]) > 0 for row in rows)


def test_instructions(capsys):
    """Goal: the counter counts: some hundreds of instructions a request, and answers are checked."""
    instructions.main(["--bytecode", "--cases", "ONNX add/sub", "--concurrency", "2", "--requests", "100"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["http", "grpc"]
    assert all(100 < float(row[4].replace(",", "")) < 20_000 for row in rows)


def test_isolated_models(capsys, monkeypatch):
    """Goal: loads and requests are measured, ours alone where there is no reference server."""
    monkeypatch.setattr(isolated, "reference_script", lambda: None)
    isolated.main(["--cases", "isolated strings", "--concurrency", "2", "--seconds", "0.2", "--loads", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows[2:3] + rows[5:]] == ["| Despina", "| http", "| grpc"]


@pytest.mark.parametrize("curve", list(scale.known()))
def test_a_curve_of_scale_is_measured_and_its_answers_checked(curve, monkeypatch):
    """Goal: each curve runs. Method: two sizes, small ones."""
    monkeypatch.setattr(scale, "SETTLE_S", 0.0)
    points = list(scale.measured(curve, [2, 4]))
    assert [point.size for point in points] == [2, 4]


@pytest.mark.usefixtures("include")
def test_batches_of_a_native_backend(tmp_path, capsys):
    """Goal: each size and scope is measured, and whoever names a sketch that is not there is told so. Method: the
    benchmark refuses wrong answers."""
    native_batch.main(["--turns", "1", "--seconds", "0.01", "--sizes", "1", "3", "--sketch", str(tmp_path)])
    said = capsys.readouterr().out
    assert f"without the sketch: no core.cc and tsx.h in {tmp_path}" in said
    assert [line.split(" | ")[0] for line in said.splitlines() if line.startswith("| this")] == [
        "| this checkout, batch",
        "| this checkout, jobs",
    ]
