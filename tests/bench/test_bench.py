"""The benchmark's machinery, run briefly: the answers are checked, the figures are not."""

from __future__ import annotations

import pytest
import trio

from tests.bench import channels, instructions, overload
from tests.bench.cases import known_cases
from tests.bench.grpc_caller import grpc_callers
from tests.bench.http_caller import http_callers
from tests.bench.in_process import measure_case
from tests.bench.load import WrongAnswer, drive
from tests.bench.models import write_models
from tests.bench.run import main
from tests.conformance.servers import running_despina

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
    with running_despina(models, tmp_path_factory.mktemp("bench-server")) as running:
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


@pytest.mark.parametrize("executor", ["inline", "thread"])
def test_engine_in_process(executor, tmp_path):
    """Goal: the engine alone answers rightly at 1, 8 and 64 callers, on either executor."""
    write_models(tmp_path, ("onnx_addsub",))
    row = trio.run(measure_case, tmp_path, "ONNX add/sub", executor, 0.1)
    assert all(measured.requests > 0 for measured in row)


def test_the_table_is_printed(server, capsys):
    """Goal: the command prints a row with a figure for each server. Method: the server is its own opponent."""
    against = f"127.0.0.1:{server.http_port}:{server.grpc_port}:{server.pid}"
    wanted = ["--no-engine", "--cases", "ONNX add/sub", "--concurrency", "2", "--seconds", "0.2", "--turns", "1"]
    main([*wanted, "--against", against])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ONNX add/sub | 2 |")]
    assert len(rows) == 2


def test_calls_and_channels(capsys):
    """Goal: both ways of carrying a request inside the engine answer rightly."""
    trio.run(channels.main, 0.05)
    assert capsys.readouterr().out.count("\n") == 2 + len(channels.CALLERS)


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
    instructions.main(["--cases", "ONNX add/sub", "--concurrency", "2", "--seconds", "0.3"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["http", "grpc"]
    assert all(100 < float(row[4].replace(",", "")) < 20_000 for row in rows)
