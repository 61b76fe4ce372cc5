"""Python models in processes of their own: what ends one, what it may take, and what nobody else notices of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import despina
import numpy as np
import pytest
import trio
from despina.backends.python.isolated.instance import IsolatedInstance
from despina.schema.fault import Internal

CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "IN" data_type: TYPE_STRING dims: [1] }]
output [{ name: "OUT" data_type: TYPE_STRING dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
MODEL = """
import asyncio, importlib, multiprocessing, os, signal, subprocess, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

def square(x):
    return x * x

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            said = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0].decode()
            space = {"request": request, "self": self, **globals()}
            exec(said, space)
            answer = str(space.get("answer", os.getpid())).encode()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([answer], object))]))
        return responses
"""
DEADLINE_S = 20


@pytest.fixture
def opened(tmp_path):
    """`async with opened() as engine`: an engine over a model that executes what it is told."""

    def open_it(more="", model=MODEL, **options):
        (tmp_path / "m" / "1").mkdir(parents=True)
        (tmp_path / "m" / "config.pbtxt").write_text(CONFIG + more)
        (tmp_path / "m" / "1" / "model.py").write_text(model)
        return despina.open_engine(tmp_path, **options)

    return open_it


def parameter(name, value):
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'


async def ask(engine, code="pass"):
    with trio.fail_after(DEADLINE_S):
        said = np.array([textwrap.dedent(code).encode()], object)
        return (await engine.infer("m", {"IN": said}))["OUT"].item().decode()


async def refused(engine, code):
    with pytest.raises(despina.Fault) as caught:
        await ask(engine, code)
    return caught.value


async def until(condition):
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  other processes bring it about
            await trio.sleep(0.01)


async def back(engine):
    """Until the model serves again. Seconds that it took."""
    began = trio.current_time()
    await until(lambda: engine.is_model_ready("m"))
    assert await ask(engine)
    return trio.current_time() - began


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
        ("os._exit(3)", "exited with status 3"),
        ("os.abort()", "was ended by SIGABRT"),
    ],
)
async def test_a_process_that_ends(opened, code, how):
    """Its batch fails with a text that says how, the model is not ready meanwhile, and a new process serves soon."""
    async with opened() as engine:
        first = await ask(engine)
        fault = await refused(engine, code)
        assert isinstance(fault, despina.ExecutorDied)
        assert fault.message == f"Stub process 'm_0_0' is not healthy: it {how}"
        assert not engine.is_model_ready("m")
        assert await back(engine) < 30
        assert await ask(engine) != first
        assert not is_alive(int(first))


async def test_a_process_that_ends_while_idle(opened):
    """Nobody has to ask to find out."""
    async with opened() as engine:
        pid = int(await ask(engine))
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not engine.is_model_ready("m"))
        await back(engine)


async def test_a_hang_has_an_end(opened):
    """An execution beyond the limit ends the process, and is told so."""
    async with opened(parameter("DESPINA_EXECUTION_SECONDS_MAX", "0.3")) as engine:
        fault = await refused(engine, "time.sleep(60)")
        assert fault.message == (
            "Stub process 'm_0_0' is not healthy: it was ended, for one execution took longer than 0.3 s"
        )
        await back(engine)


async def test_memory_has_a_limit(opened):
    """What goes beyond fails like any error of the model's; the process lives."""
    async with opened(parameter("DESPINA_MEMORY_BYTES_MAX", str(1 << 31))) as engine:
        pid = await ask(engine)
        fault = await refused(engine, "bytearray(4 << 30)")
        assert "MemoryError" in fault.message
        assert await ask(engine) == pid


async def test_what_the_model_has_started_ends_with_it(opened):
    """Processes of the model's own do not outlive it, however it ends."""
    async with opened() as engine:
        child = int(await ask(engine, "answer = subprocess.Popen(['sleep', '600']).pid"))
        assert is_alive(child)
        await refused(engine, "os._exit(0)")
        await until(lambda: not is_alive(child))
        await back(engine)
        child = int(await ask(engine, "answer = subprocess.Popen(['sleep', '600']).pid"))
    await until(lambda: not is_alive(child))


async def test_the_process_is_a_main_thread_of_its_own(opened, tmp_path):
    """What needs a main thread works: signals, loops, processes by fork and spawn, imports by name."""
    async with opened() as engine:
        (tmp_path / "m" / "1" / "neighbour.py").write_text("NAME = 'neighbour'")
        assert await ask(engine, "answer = threading.current_thread() is threading.main_thread()") == "True"
        handled = "signal.signal(signal.SIGUSR1, lambda *_: None); answer = os.kill(os.getpid(), signal.SIGUSR1)"
        assert await ask(engine, handled) == "None"
        assert await ask(engine, "answer = importlib.import_module('neighbour').NAME") == "neighbour"
        assert await ask(engine, "answer = asyncio.run(asyncio.sleep(0, 'slept'))") == "slept"
        for method in ("fork", "spawn"):
            code = f"""
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                answer = pool.map(type(self).execute.__globals__["square"], [1, 2, 3])
            """
            assert await ask(engine, code) == "[1, 4, 9]"


async def test_a_thread_reads_only_where_the_main_thread_cannot(opened):
    """Goal: a batch wakes one thread. Method: the main thread hears what it asks itself; a thread of the model's asks
    while the main thread is idle, and another one while it executes."""
    async with opened() as engine:
        assert await ask(engine, "answer = request.is_cancelled(), threading.active_count()") == "(False, 1)"
        await ask(
            engine,
            """
            def count():
                family = pb_utils.MetricFamily(name="heard", description="", kind=pb_utils.MetricFamily.COUNTER)
                metric = family.Metric(labels={})
                metric.increment(2)
                self.found = metric.value()
            self.timer = threading.Timer(0.1, count)
            self.timer.start()
            """,
        )
        await trio.sleep(0.3)  # it has asked by now; if not, the next request waits for it
        assert await ask(engine, "self.timer.join(); answer = self.found, threading.active_count()") == "(2.0, 2)"
        code = "thread = threading.Thread(target=count); thread.start(); thread.join(); answer = self.found"
        prelude = """
            def count():
                family = pb_utils.MetricFamily(name="heard", description="", kind=pb_utils.MetricFamily.COUNTER)
                self.found = family.Metric(labels={}).value()
            """
        assert await ask(engine, textwrap.dedent(prelude) + code) == "0.0"


async def test_a_caller_that_leaves_is_noticed(opened):
    """`is_cancelled` says so while the model executes."""
    spin = """
    open(FILE, "w").close()
    while not request.is_cancelled(): time.sleep(0.01)
    os.unlink(FILE)
    """
    async with opened() as engine:
        file = Path(engine_file := f"/tmp/despina_test_{os.getpid()}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, engine, spin.replace("FILE", repr(engine_file)))
            await until(file.exists)
            nursery.cancel_scope.cancel()
        await until(lambda: not file.exists())
        assert await ask(engine)


async def test_unloading_finalizes_and_then_cuts_off(opened, tmp_path):
    """`finalize` runs; one that hangs is cut off in time, with its process."""
    finalize = f"open({str(tmp_path / 'finalized')!r}, 'w').close(); time.sleep(self.hang)"
    more = f"    hang = 0\n    def finalize(self):\n        {finalize}\n"
    async with opened(model=MODEL + more, exit_timeout_secs=1.0) as engine:
        await ask(engine)
    assert (tmp_path / "finalized").exists()
    pids = []

    async def open_and_hang():
        async with despina.open_engine(tmp_path, exit_timeout_secs=1.0) as engine:
            pids.append(int(await ask(engine, "answer = os.getpid(); self.hang = 600")))

    began = time.monotonic()
    with pytest.raises(despina.Internal, match="Exit timeout expired"):
        await open_and_hang()
    assert time.monotonic() - began < 10
    assert not is_alive(pids[0])


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("os._exit(4)", "Stub process 'm_0_0' is not healthy: it exited with status 4"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Stub process 'm_0_0' is not healthy: it was ended by SIGSEGV"),
    ],
)
async def test_a_model_that_does_not_initialize(opened, code, text):
    """The load fails and says why; nothing is opened again and again."""
    more = f"    def initialize(self, args):\n        {code}\n"
    async with opened(model=MODEL + more, exit_on_error=False) as engine:
        (line,) = await engine.index()
        assert line.state == "UNAVAILABLE"
        assert text in line.reason


@pytest.mark.interpreted
async def test_quiet_gives_memory_back(opened, monkeypatch):
    """Goal: what large tensors went through does not stay, on neither side. Method: bounds so small that it is soon."""
    from despina.backends.python.isolated import link
    from despina.backends.python.isolated import segments as shared

    monkeypatch.setattr(link, "QUIET_S", 0.2)
    monkeypatch.setattr(shared, "IDLE_BYTES_MAX", 1 << 16)
    bounds = """
    def initialize(self, args):
        from despina.backends.python.isolated import listening, segments
        listening.QUIET_S, segments.IDLE_BYTES_MAX = 0.2, 1 << 16
"""
    async with opened(model=MODEL + bounds) as engine:
        before = segments()
        assert await ask(engine, "answer = 'x' * 2_000_000 #" + "y" * 2_000_000) == "x" * 2_000_000
        assert segments() > before
        await until(lambda: segments() == before)
        assert await ask(engine, "answer = open('/proc/self/maps').read().count('memfd:despina')") == "0"


async def test_what_is_asked_while_the_model_is_initialized(opened):
    """Metrics are made then, as a rule; what fails is told."""
    asks = """
    def initialize(self, args):
        family = pb_utils.MetricFamily(name="begun", description="", kind=pb_utils.MetricFamily.COUNTER)
        self.metric = family.Metric(labels={})
        self.metric.increment(2)
        try:
            pb_utils.load_model("nobody")
        except pb_utils.TritonModelException as error:
            self.unknown = str(error)
"""
    async with opened(model=MODEL + asks) as engine:
        assert await ask(engine, "answer = self.metric.value()") == "2.0"
        assert "explicit model load / unload is not allowed" in await ask(engine, "answer = self.unknown")


async def test_memory_that_is_shared_is_used_again(opened):
    """Large tensors go through a bounded number of segments, both ways, and come back right."""
    before = segments()  # of other tests' answers
    async with opened(model=ECHO) as engine:
        chance = np.random.default_rng(1)
        for size in (1, 100, 5_000, 20_000, 300_000, 20_000, 300_000) * 6:
            text = chance.bytes(size)
            assert (await engine.infer("m", {"IN": np.array([text], object)}))["OUT"].item() == text
        assert segments() <= before + 16
    assert segments() <= before


def segments():
    return Path("/proc/self/maps").read_text().count("memfd:despina")


ECHO = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", request.inputs()[0].as_numpy())]) for request in requests
        ]
"""


async def test_many_requests_in_one_batch(opened):
    """A batch whose description does not fit a packet goes through shared memory as a whole."""
    async with opened("dynamic_batching {}", model=ECHO.replace("request.inputs", "request.inputs")) as engine:
        answers = {}

        async def one(index):
            parameters = {"note": "x" * 2_000}
            result = await engine.infer("m", {"IN": np.array([str(index).encode()], object)}, parameters=parameters)
            answers[index] = result["OUT"].item()

        async with trio.open_nursery() as nursery:
            for index in range(200):
                nursery.start_soon(one, index)
        assert answers == {index: str(index).encode() for index in range(200)}


STREAM = """
import os, time
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for index in range(int(request.inputs()[0].as_numpy()[0])):
                if index == 1_000_000:
                    os._exit(1)
                value = np.array([str(index).encode()], object)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", value)]))
                if sender.is_cancelled():
                    break
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
DECOUPLED = "model_transaction_policy { decoupled: true }"


async def test_streams(opened):
    """Answers come in order, a slow reader holds its model back, and one that leaves ends its stream."""
    async with opened(DECOUPLED, model=STREAM) as engine:
        stream = engine.stream("m", {"IN": np.array([b"500"], object)})
        assert [int(result["OUT"].item()) async for result in stream] == list(range(500))
        with trio.fail_after(DEADLINE_S):
            stream = engine.stream("m", {"IN": np.array([b"900000"], object)})
            async for result in stream:
                await trio.sleep(0.01)
                if int(result["OUT"].item()) == 20:
                    break
            await stream.aclose()
        stream = engine.stream("m", {"IN": np.array([b"3"], object)})
        assert len([result async for result in stream]) == 3


async def test_a_process_that_ends_amid_a_stream(opened):
    """What was sent arrives, then the error."""
    async with opened(DECOUPLED, model=STREAM.replace("1_000_000", "10")) as engine:
        got = []

        async def read():
            async for result in engine.stream("m", {"IN": np.array([b"100"], object)}):
                got.append(int(result["OUT"].item()))  # noqa: PERF401  what came before the error counts

        with pytest.raises(despina.ExecutorDied, match="exited with status 1"), trio.fail_after(DEADLINE_S):
            await read()
        assert got == list(range(len(got)))
        await until(lambda: engine.is_model_ready("m"))
        assert len([r async for r in engine.stream("m", {"IN": np.array([b"5"], object)})]) == 5


@pytest.mark.parametrize("does", ["nothing", "hold the interpreter"])
def test_the_process_ends_with_its_server(tmp_path, does):
    """Killed, a server leaves no process behind, not even one whose model lets no other thread of it run."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "m" / "1" / "model.py").write_text(MODEL)
    hold = f"open({str(tmp_path / 'held')!r}, 'w').close(); import ctypes; ctypes.PyDLL(None).sleep(600)"
    program = f"""
import despina, trio, numpy as np
def said(code):
    return {{"IN": np.array([code.encode()], object)}}
async def main():
    async with despina.open_engine({str(tmp_path)!r}) as engine:
        print((await engine.infer("m", said("pass")))["OUT"].item().decode(), flush=True)
        if {does!r} != "nothing":
            await engine.infer("m", said({hold!r}))
        await trio.sleep_forever()
trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as server:
        pid = int(server.stdout.readline())
        give_up = time.monotonic() + DEADLINE_S
        while does != "nothing" and not (tmp_path / "held").exists():
            assert time.monotonic() < give_up
            time.sleep(0.02)
        assert is_alive(pid)
        server.kill()
    give_up = time.monotonic() + DEADLINE_S
    while is_alive(pid):
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.interpreted
@pytest.mark.parametrize("where", ["auto_complete_config", "initialize"])
async def test_a_start_that_takes_too_long(opened, where):
    """The load fails when the model's own limit has passed, and its process goes."""
    heads = {
        "auto_complete_config": "    @staticmethod\n    def auto_complete_config(config):\n",
        "initialize": "    def initialize(self, args):\n",
    }
    before, execute, after = MODEL.partition("    def execute")
    model = f"{before}{heads[where]}        time.sleep(60)\n{execute}{after}"
    async with opened(parameter("DESPINA_START_SECONDS_MAX", "0.5"), model=model, exit_on_error=False) as engine:
        (line,) = await engine.index()
        assert "within 0.5 s" in line.reason


@pytest.mark.parametrize(
    "name", ["DESPINA_MEMORY_BYTES_MAX", "DESPINA_EXECUTION_SECONDS_MAX", "DESPINA_START_SECONDS_MAX"]
)
@pytest.mark.parametrize("value", ["x", "-1", "0", "inf", "nan"])
async def test_limits_that_are_none(opened, name, value):
    """They are refused by name when the model is loaded."""
    async with opened(parameter(name, value), exit_on_error=False) as engine:
        (line,) = await engine.index()
        assert f"parameter {name} must be a positive number, got '{value}'" in line.reason


@pytest.mark.parametrize(
    ("parameter_says", "setting_says", "environment_says", "isolated"),
    [
        ("", "", "", True),
        ("", "", "none", False),
        ("", "none", "process", False),
        ("", "process", "none", True),
        ("none", "process", "process", False),
        ("process", "none", "none", True),
    ],
)
async def test_in_which_process(opened, monkeypatch, parameter_says, setting_says, environment_says, isolated):
    """Each instance has one of its own, unless the model, then the backend's setting, then the environment says no."""
    monkeypatch.setenv("DESPINA_ISOLATION", environment_says)
    more = parameter("DESPINA_ISOLATION", parameter_says) if parameter_says else ""
    settings = {"python": {"isolation": setting_says}} if setting_says else {}
    async with opened(more, backend_config=settings) as engine:
        assert (await ask(engine) != str(os.getpid())) is isolated


async def test_inline_in_a_process_of_its_own(opened):
    """It cannot be, and is refused by name."""
    async with opened(parameter("DESPINA_EXECUTOR", "inline"), exit_on_error=False) as engine:
        (line,) = await engine.index()
        assert line.reason.endswith(
            "parameter DESPINA_EXECUTOR = inline needs the model in the server's process (DESPINA_ISOLATION = none)"
        )


@pytest.mark.parametrize("which", ["parameter", "setting", "environment"])
async def test_an_isolation_that_is_none(opened, monkeypatch, which):
    """It is refused by name."""
    monkeypatch.setenv("DESPINA_ISOLATION", "x" if which == "environment" else "")
    more = parameter("DESPINA_ISOLATION", "x") if which == "parameter" else ""
    settings = {"python": {"isolation": "x"}} if which == "setting" else {}
    async with opened(more, exit_on_error=False, backend_config=settings) as engine:
        (line,) = await engine.index()
        complaint = "unable to load model 'm': isolation must be 'none' or 'process', got 'x'"
        assert line.reason == f"Invalid argument: {complaint}"


async def test_the_process_of_a_bound_instance(opened):
    """Goal: a host policy's cores are all that the process has, and the server's own thread keeps its own."""
    cores = sorted(os.sched_getaffinity(0))
    policy = {"cpu": {"cpu-cores": f"{cores[-1]}-{cores[-1]}"}}
    async with opened(host_policy=policy) as engine:
        said = np.array(["answer = sorted(os.sched_getaffinity(0))"], object)
        found = await engine.infer("m", {"IN": said})
    assert found["OUT"].tolist() == [str(cores[-1:]).encode()]
    assert sorted(os.sched_getaffinity(0)) == cores


async def test_a_policy_that_cannot_be_kept_fails_the_load(opened):
    with pytest.raises(Internal, match="failed to load all models"):
        async with opened(host_policy={"cpu": {"cpu-cores": "x-1"}}):
            pass
    assert os.sched_getaffinity(0)


@pytest.mark.interpreted
async def test_closed_before_anybody_listened():
    """Goal: an instance that is opened and closed within one turn of the scheduler, whose tasks come in any order, is
    no fault: its socket is closed when the task that listens begins."""
    ours, theirs = socket.socketpair()
    instance = object.__new__(IsolatedInstance)
    instance._process_ = SimpleNamespace(sock=ours)
    ours.close()
    await instance._read()
    theirs.close()
