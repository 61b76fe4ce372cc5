"""Models' processes are forked off one process: nothing of one is in another, and what ends that one is got over."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import despina
import pytest
import trio
from despina.backends.python.isolated import fork_server
from despina.backends.python.isolated.process import ModelProcess
from despina.schema.fault import Unavailable

CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_STRING dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
parameters { key: "DESPINA_ISOLATION" value { string_value: "process" } }
"""
MODEL = """
import os, random, sys
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        said = pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0].decode()
        answer = str(eval(said)).encode()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([answer], object))])]
"""
PROGRAM = "from despina.backends.python.isolated import forking; import os; {}; forking.main({{}})"
DEADLINE_S = 20


@pytest.fixture
def opened(tmp_path):
    """`async with opened() as engine`: an engine over models a and b, which evaluate what they are told."""

    def open_it():
        for name in ("a", "b"):
            (tmp_path / name / "1").mkdir(parents=True)
            (tmp_path / name / "config.pbtxt").write_text(CONFIG)
            (tmp_path / name / "1" / "model.py").write_text(MODEL)
        return despina.open_engine(tmp_path)

    return open_it


@pytest.fixture
def forks_with(monkeypatch):
    """`forks_with(code)`: a fork server of one's own, which executes that first."""
    monkeypatch.setattr(fork_server, "_current", None)

    def begin(code):
        monkeypatch.setattr(fork_server, "_PROGRAM", PROGRAM.format(code))

    yield begin
    if fork_server._current is not None:
        fork_server._forget(fork_server._current)


async def ask(engine, model, code):
    with trio.fail_after(DEADLINE_S):
        return (await engine.infer(model, {"IN": [code]}))["OUT"].item().decode()


async def until(condition):
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  other processes bring it about
            await trio.sleep(0.01)


async def test_each_process_is_as_if_it_had_been_started_anew(opened, monkeypatch, tmp_path):
    """Goal: the environment, the folder and random numbers are those of a new process. Method: change the first two
    after the forking process has started; compare what two models draw."""
    fork_server._ours()
    monkeypatch.setenv("DESPINA_TEST_SET", "so")
    monkeypatch.delenv("PATH")
    monkeypatch.chdir(tmp_path)
    async with opened() as engine:
        seen = "os.environ['DESPINA_TEST_SET'], 'PATH' in os.environ, os.getcwd(), os.getsid(0) == os.getpid()"
        assert await ask(engine, "a", seen) == str(("so", False, str(tmp_path), True))
        assert await ask(engine, "a", "os.getppid()") == await ask(engine, "b", "os.getppid()")
        for draw in ("random.random()", "np.random.rand()"):
            assert await ask(engine, "a", draw) != await ask(engine, "b", draw)


async def test_what_a_model_prints_goes_where_ours_does(opened, capfd):
    """Also where that is somewhere else than when the forking process was started."""
    fork_server._ours()
    async with opened() as engine:
        await ask(engine, "a", "print('to stdout', flush=True), print('to stderr', file=sys.stderr, flush=True)")
    assert capfd.readouterr() == ("to stdout\n", "to stderr\n")


async def test_the_forking_process_is_killed(opened):
    """Its models' processes end with it; they are back soon, forked off a new one."""
    async with opened() as engine:
        before = int(await ask(engine, "a", "os.getppid()"))
        os.kill(before, signal.SIGKILL)
        await until(lambda: not engine.is_model_ready("a"))
        await until(lambda: engine.is_model_ready("a") and engine.is_model_ready("b"))
        assert int(await ask(engine, "b", "os.getppid()")) != before


def test_it_ends_when_it_has_nothing_to_do(forks_with):
    """And the next process is forked off a new one."""
    forks_with("forking.IDLE_S_MAX = 0.5; forking._LOOK_MS = 10")
    ModelProcess().reap()
    first = fork_server._ours()
    assert first._process.wait(DEADLINE_S) == 0
    process = ModelProcess()
    assert fork_server._ours() is not first
    process.reap()
    assert process.how() == "was ended by SIGKILL"


def test_it_ends_with_who_started_it(forks_with):
    """Also where another process has the other end of its link."""
    forks_with("forking._LOOK_MS = 10; os.getppid = iter([1, 1, 2]).__next__")
    assert fork_server._ours()._process.wait(DEADLINE_S) == 0


def test_a_fork_that_fails(forks_with):
    """It is told, and the next one may work."""
    forks_with("fork = os.fork; os.fork = lambda: (setattr(os, 'fork', fork), os.stat('/nowhere'))")
    with pytest.raises(Unavailable, match=r"unable to start a process for a model: fork failed: .*No such file"):
        ModelProcess()
    ModelProcess().reap()


def test_it_cannot_be_started(forks_with, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(Unavailable, match=r"unable to start a process for a model: .*/nowhere/python"):
        ModelProcess()


def test_who_forks_asks_a_forking_process_of_its_own(forks_with):
    """Two processes over one link would hear each other's answers."""
    forks_with("pass")
    ours = fork_server._ours()
    reads, writes = socket.socketpair()
    pid = os.fork()
    if not pid:
        writes.send(b"other" if fork_server._ours() is not ours else b"same")
        os._exit(0)
    os.waitpid(pid, 0)
    assert reads.recv(10) == b"other"
    reads.close()
    writes.close()


def test_no_process_is_left_unreaped(forks_with):
    """However one ends, nothing of it stays with the process that forked it."""
    forks_with("pass")
    for number in (signal.SIGKILL, signal.SIGSEGV):
        process = ModelProcess()
        os.kill(process.pid, number)
        process.reap()
    pid = fork_server._ours()._process.pid
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
