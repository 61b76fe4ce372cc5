"""What a service manager is told: a real socket of datagrams, a real server."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest
import trio
from despina.engine.engine import Engine
from despina.engine.port.settings import EngineSettings
from despina.engine.repository.asking import Asking
from despina.engine.repository.registry import ModelEntry, State, VersionEntry
from despina.frontends.cli.service_manager import ServiceManager, loading_status
from despina.frontends.cli.stopping import Stopping

from tests.unit.cli.child import MODEL, WAIT_S, Serving, add_model, send

DOORS = ("--allow-grpc=false", "--allow-metrics=false")
WATCHDOG_S = 1.0

SLOW_TO_LOAD = """
import os, time
time.sleep(1.5)
assert "NOTIFY_SOCKET" not in os.environ and "WATCHDOG_USEC" not in os.environ, "children speak for the server"
""" + MODEL.lstrip()
STUCK = MODEL.replace("time.sleep(", "print('about to be stuck', flush=True); stand_still(") + (
    "\n\ndef stand_still(seconds):\n    time.sleep(seconds)\n"
)
INLINE = 'parameters { key: "DESPINA_EXECUTOR" value { string_value: "inline" } }\n'


class Listener:
    """The manager's end."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(address))
        self.socket.settimeout(WAIT_S)
        self.messages = []

    def next(self):
        """One message, as a dict."""
        text = self.socket.recv(65536).decode()
        self.messages.append(dict(line.split("=", 1) for line in text.split("\n")))
        return self.messages[-1]

    def until(self, **wanted):
        """The first message that has these fields; of them, None is any value."""
        while True:
            message = self.next()
            if all(name in message and value in (None, message[name]) for name, value in wanted.items()):
                return message

    def waiting(self):
        """How many messages come in the next while, WATCHDOG_S long."""
        count = 0
        self.socket.settimeout(WATCHDOG_S)
        try:
            while True:
                self.next()
                count += 1
        except TimeoutError:
            return count
        finally:
            self.socket.settimeout(WAIT_S)


@pytest.fixture
def listener():
    """In a folder with a short name: the kernel takes no long paths."""
    with tempfile.TemporaryDirectory(prefix="despina") as folder:
        made = Listener(Path(folder) / "notify")
        yield made
        made.socket.close()


def variables(listener, **more):
    return {"NOTIFY_SOCKET": listener.socket.getsockname(), "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)), **more}


@pytest.mark.parametrize(
    ("environment", "address", "watchdog_s"),
    [
        ({}, "", None),
        ({"NOTIFY_SOCKET": "/run/n"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "2500000"}, "@n", 2.5),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, "/run/n", 2.5),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "2500000"}, "", None),
    ],
)
def test_variables(environment, address, watchdog_s):
    """Goal: what is not for this process, or cannot be used, counts as absent; the variables are gone afterwards."""
    given = {**environment, "PATH": "/bin"}
    manager = ServiceManager.from_environment(given)
    assert (manager.address, manager.watchdog_s) == (address, watchdog_s)
    assert given == {"PATH": "/bin"}


def test_one_line_a_field(listener):
    """Goal: a text with line ends cannot pose as further fields. Also by a name in the kernel."""
    manager = ServiceManager(listener.socket.getsockname())
    manager.tell(STATUS="failed:\nREADY=1", ERRNO=5)
    assert listener.next() == {"STATUS": "failed: READY=1", "ERRNO": "5"}
    abstract = Listener(f"\0despina-test-{os.getpid()}")
    ServiceManager(f"@despina-test-{os.getpid()}").tell(READY=1)
    assert abstract.next() == {"READY": "1"}
    abstract.socket.close()


def test_nobody_hears_it(caplog, listener):
    """Goal: a manager that has gone costs one line, until one is there again; without a manager nothing happens."""
    ServiceManager().tell(READY=1)
    manager = ServiceManager(listener.socket.getsockname())
    path = Path(manager.address)
    path.rename(path.with_name("away"))
    for _ in range(3):
        manager.tell(WATCHDOG=1)
    path.with_name("away").rename(path)
    manager.tell(WATCHDOG=1)
    assert listener.next() == {"WATCHDOG": "1"}
    assert [record.message for record in caplog.records] == [
        f"the service manager cannot be told: {path}: No such file or directory"
    ]


def test_a_manager_that_does_not_read(listener, monkeypatch):
    """Goal: a full socket holds nobody up for ever."""
    monkeypatch.setattr("despina.frontends.cli.service_manager.TELL_S", 0.01)
    manager = ServiceManager(listener.socket.getsockname())
    for _ in range(1000):
        manager.tell(STATUS="x" * 1000)
        if manager._is_deaf:
            return
    raise AssertionError("the socket takes everything")


def test_hang_ups(listener):
    """Goal: under a manager a SIGHUP is a reload, also where there is nothing to do, and told as over if it fails;
    elsewhere it is what it was."""

    def fail():
        raise OSError("read-only")

    assert ServiceManager().reloading(None) is None
    assert ServiceManager().reloading(fail) is fail
    manager = ServiceManager(listener.socket.getsockname())
    manager.reloading(None)()
    with pytest.raises(OSError, match="read-only"):
        manager.reloading(fail)()
    assert ["READY" in listener.next() for _ in range(4)] == [False, True, False, True]


def test_status_while_loading(engine_with_states):
    """Goal: models, not versions, are counted; one line, however many there are."""
    engine = engine_with_states(a=["READY"], b=["LOADING"], c=["READY", "LOADING"], d=["UNAVAILABLE"], e=[])
    assert loading_status(engine) == "loading b, c; 1 ready, 2 failed"
    assert loading_status(engine_with_states()) == "loading models"
    many = {f"m{number}": ["LOADING"] for number in range(8)}
    assert loading_status(engine_with_states(**many)) == "loading m0, m1, m2, m3, m4 and 3 more"


@pytest.fixture
def engine_with_states(tmp_path):
    """Makes an engine whose registry has models with versions in these states."""

    def make(**models):
        engine = Engine(EngineSettings(model_repository=(str(tmp_path),)))
        for name, states in models.items():
            entry = ModelEntry(name, name, Asking())
            entry.versions = {number: VersionEntry(number, State[state]) for number, state in enumerate(states, 1)}
            engine.registry.models[name] = entry
        return engine

    return make


def test_a_life(listener, tmp_path):
    """Goal: a start that takes its time and says what it does, READY with open doors, a fed watchdog, a reload, an
    orderly end; models do not find the variables."""
    add_model(tmp_path, "sleeper", SLOW_TO_LOAD)
    log = tmp_path / "log"
    options = [f"--model-repository={tmp_path}", f"--log-file={log}", "--exit-timeout-secs=7", *DOORS]
    (tmp_path / "log").touch()
    with Serving(*options, **variables(listener)) as server:
        assert listener.until(STATUS="loading sleeper")["EXTEND_TIMEOUT_USEC"] == "60000000"
        assert listener.until(READY="1") == {"READY": "1", "STATUS": "serving 1 model"}
        assert "Started HTTPService" in log.read_text()
        for _ in range(3):
            assert listener.until(WATCHDOG="1") == {"WATCHDOG": "1"}
        server.process.send_signal(signal.SIGHUP)
        assert int(listener.until(RELOADING="1")["MONOTONIC_USEC"]) > 0
        listener.until(READY="1")
        server.process.terminate()
        stopping = listener.until(STOPPING="1")
        assert stopping["STATUS"] == "finishing requests in flight"
        assert 11e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) <= 12e6
        code, output = server.end()
    assert code == 0, output


def test_a_hang_up_with_every_door_open(listener, tmp_path):
    """Goal: each door has its part in a reload, also where there is nothing to read: the server serves on."""
    add_model(tmp_path, "sleeper", MODEL)
    with Serving(f"--model-repository={tmp_path}", **variables(listener)) as server:
        listener.until(READY="1")
        server.process.send_signal(signal.SIGHUP)
        listener.until(RELOADING="1")
        listener.until(READY="1")
        listener.until(WATCHDOG="1")
        server.process.terminate()
        code, output = server.end()
    assert code == 0, output


def test_a_start_that_fails(listener, tmp_path):
    """Goal: the manager shows why, and never heard READY."""
    add_model(tmp_path, "sleeper", "raise RuntimeError('no weights')")
    with Serving(f"--model-repository={tmp_path}", *DOORS, **variables(listener)) as server:
        assert server.end()[0] == 1
    assert listener.until(STATUS="error: creating server: Internal - failed to load all models")
    assert not any("READY" in message for message in listener.messages)


def test_a_model_that_fails_later_shows(listener, tmp_path):
    """Goal: the status says which model does not serve."""
    add_model(tmp_path, "sleeper", "raise RuntimeError('no weights')")
    options = ["--exit-on-error=false", "--strict-readiness=false"]
    with Serving(f"--model-repository={tmp_path}", *options, *DOORS, **variables(listener)):
        status = listener.until(READY="1")["STATUS"]
    assert status.startswith("serving 0 models; model 'sleeper' version 1 is UNAVAILABLE: ")
    assert "no weights" in status


def test_a_stuck_loop_falls_silent(listener, tmp_path):
    """Goal: while a request holds the event loop, the watchdog is not fed, though threads run; the manager's SIGABRT
    ends the process, and its log shows the line that was stuck. Method: a model that is executed on the loop and does
    not return."""
    add_model(tmp_path, "sleeper", STUCK)
    with (tmp_path / "sleeper" / "config.pbtxt").open("a") as config:
        config.write(INLINE)
    with Serving(f"--model-repository={tmp_path}", *DOORS, **variables(listener)) as server:
        listener.until(READY="1")
        for _ in range(3):
            listener.until(WATCHDOG="1")
        connection = send(server.port("HTTPService"), 1000)
        server.wait_for("about to be stuck")
        listener.waiting()  # those that were sent before
        assert listener.waiting() == 0
        server.process.send_signal(signal.SIGABRT)
        code, output = server.end()
        connection.close()
    assert code == -signal.SIGABRT
    assert "in stand_still" in output, output


async def test_who_is_not_managed_pays_nothing(engine_with_states):
    """Goal: without a socket nothing runs."""
    with trio.fail_after(WAIT_S):
        await ServiceManager().report(engine_with_states(), Stopping(1))
