"""Load, unload, reload, poll, stop: a whole engine over a repository on disk."""

import logging
import tempfile
import threading
from contextlib import suppress

import despina
import pytest
import trio
from despina.schema.fault import Internal, InvalidArgument, NotFound, NotReady, ShuttingDown, Unavailable

from tests.fakes import FakeBackend, Gate, config_text, request, touch, value_of, write_model

EXPLICIT = {"model_control_mode": "explicit"}
NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"


async def states(engine):
    return [(entry.name, entry.version, entry.state, entry.reason) for entry in await engine.index()]


OVERRIDE = (
    '{"backend": "fake", "max_batch_size": 3, "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}],'
    ' "output": [{"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]}]}'
)


async def settle():
    """Until nothing more happens by itself; works with blocking work inline."""
    await trio.testing.wait_all_tasks_blocked()


async def test_a_model_comes_and_goes(virtual_time, repository, backend, opened):
    """Goal: states, index and look-ups through load and unload; strict readiness stays true."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        assert await states(engine) == [("m", "", "", "")]
        assert engine.is_ready()
        with pytest.raises(NotFound) as caught:
            await engine.infer_request(request())
        assert caught.value.message == "Request for unknown model: 'm' is not found"
        await engine.load("m")
        assert await states(engine) == [("m", "1", "READY", "")]
        assert engine.is_model_ready("m")
        assert engine.is_model_ready("m", 1)
        with pytest.raises(NotFound) as caught:
            engine.model("m", 7)
        assert caught.value.message == "Request for unknown model: 'm' version 7 is not found"
        assert value_of(await engine.infer_request(request(value=5))) == 5
        await engine.unload("m")
        await settle()
        assert await states(engine) == [("m", "1", "UNAVAILABLE", "unloaded")]
        assert await engine.index(ready_only=True) == []
        assert engine.is_ready()
        with pytest.raises(NotFound) as caught:
            engine.model("m")
        assert caught.value.message == "Request for unknown model: 'm' has no available versions"
        with pytest.raises(NotReady) as caught:
            engine.model("m", 1)
        assert caught.value.message == "Request for unknown model: 'm' version 1 is not at ready state"
    assert (backend.opened, backend.closed, backend.instances_open) == ([("m", 1)], [("m", 1)], 0)


async def test_an_unmodified_load_does_nothing(virtual_time, repository, backend, opened):
    """Goal: the second load of an untouched model opens nothing; after a touch it does."""
    path = write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        await engine.load("m")
        assert len(backend.opened) == 1
        touch(path / "1", 5)
        await engine.load("m")
        assert len(backend.opened) == 2
        await settle()
        assert backend.closed == [("m", 1)]


async def test_a_load_after_an_unload_is_fresh(virtual_time, repository, backend, opened):
    """Goal: unloading forgets the times."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        await engine.unload("m")
        await engine.load("m")
        assert len(backend.opened) == 2
        assert await states(engine) == [("m", "1", "READY", "")]


async def test_a_config_override_lasts_until_the_files_change(virtual_time, repository, backend, opened):
    """Goal: the override replaces the whole file, whatever the times, and a plain load does not undo it; one after a
    touch does, and so does one after an unload."""
    path = write_model(repository, "m", max_batch_size=8)
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        await engine.load("m", config=OVERRIDE)
        assert engine.model("m").config.max_batch_size == 3
        await engine.load("m")
        assert engine.model("m").config.max_batch_size == 3
        await engine.load("m", config=OVERRIDE.replace("3,", "5,"))
        assert engine.model("m").config.max_batch_size == 5
        touch(path / "config.pbtxt", 1)
        await engine.load("m")
        assert engine.model("m").config.max_batch_size == 8
        await engine.load("m", config=OVERRIDE)
        await engine.unload("m")
        await engine.load("m")
        assert engine.model("m").config.max_batch_size == 8
        assert len(backend.opened) == 6


@pytest.mark.parametrize("config", ["", "{", '"x"', "[]", '{"no_such_field": 1}', '{"max_batch_size": "many"}'])
async def test_a_bad_override_is_an_error_and_changes_nothing(virtual_time, repository, backend, opened, config):
    """Goal: bad JSON answers with the poll failure text and leaves the old configuration serving."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        with pytest.raises(Internal) as caught:
            await engine.load("m", config=config)
        assert caught.value.message == "failed to load 'm', failed to poll from model repository"
        assert await states(engine) == [("m", "1", "READY", "")]
        await engine.infer_request(request())


async def test_uploaded_files_make_a_model_of_their_own(
    virtual_time, repository, backend, opened, tmp_path, monkeypatch
):
    """Goal: files live in a temporary directory without the original ones, which goes with the model."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    write_model(repository, "m")
    override = '{"backend": "fake", "input": [], "output": []}'
    with_io = override.replace("[]", '[{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}]')
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        await engine.load("m", config=with_io, files={"3/model.x": b"abc", "3/deep/er": b""})
        assert [model.version for model in engine.versions()] == [3]
        path = backend.contexts[-1].version_path
        assert (path / "model.x").read_bytes() == b"abc"
        assert not (path.parent / "1").exists()
        await engine.load("m")
        assert [model.version for model in engine.versions()] == [1]
        await settle()
        assert not path.exists()
        await engine.load("m", config=with_io, files={"3/model.x": b""})
        await engine.load("m", config=with_io, files={"4/model.x": b""})
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (None, {"1/model.x": b""}),
        ("{", {"1/model.x": b""}),
        ('{"backend": "fake"}', {"../x": b""}),
        ('{"backend": "fake"}', {"/etc/despina": b""}),
        ('{"backend": "fake"}', {"1": b"", "1/model.x": b""}),
        ('{"backend": "fake"}', {"a": b""}),
        ('{"backend": "fake", "version_policy": {"specific": {"versions": [9]}}}', {"1/a": b""}),
    ],
)
async def test_bad_uploads_fail_and_leave_nothing(
    virtual_time, repository, backend, opened, tmp_path, monkeypatch, config, files
):
    """Goal: no config, escaping paths, no versions, no tensors: an error, and no temporary directory remains."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        with pytest.raises((Internal, InvalidArgument)):
            await engine.load("m", config=config, files=files)
        assert list((tmp_path / "uploads").iterdir()) == []
        await engine.load("m")


async def test_a_reload_has_no_gap(virtual_time, repository, backend, opened):
    """Goal: requests that never stop coming, one per millisecond, all succeed through ten reloads."""
    path = write_model(repository, "m", instances=2, more="dynamic_batching {}")
    backend.cost_s = 0.0035
    answered = []
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        async with trio.open_nursery() as nursery:

            async def call(value):
                answered.append(value_of(await engine.infer_request(request(value=value))) == value)

            async def stream():
                for value in range(300):
                    nursery.start_soon(call, value)
                    await trio.sleep(0.001)

            nursery.start_soon(stream)
            for index in range(10):
                await trio.sleep(0.02)
                touch(path / "1", 1 + index)
                await engine.load("m")
        assert answered == [True] * 300
        assert len(backend.opened) == 11
        await settle()
        assert len(backend.closed) == 10


async def test_a_reload_serves_while_it_opens(repository, backend, opened):
    """Goal: real threads: while the new version is held in its backend, the old one answers."""
    path = write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        backend.open_gates["m"] = threading.Event()
        touch(path / "1", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.load, "m")
            for _ in range(2):
                await trio.to_thread.run_sync(backend.opening.acquire)
            for value in range(5):
                assert value_of(await engine.infer_request(request(value=value))) == value
            assert len(backend.opened) == 1
            backend.open_gates["m"].set()
        assert len(backend.opened) == 2


async def test_all_versions_or_none(virtual_time, repository, backend, opened):
    """Goal: one broken version fails the load of both, in the protocol's words; what served goes on serving."""
    path = write_model(repository, "m", more="version_policy { all {} }")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        (path / "2").mkdir()
        (path / "3").mkdir()
        touch(path / "1", 1)
        backend.open_errors["m", 2] = InvalidArgument("no such layer")
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
        assert caught.value.message == (
            "load failed for model 'm': version 2 is at UNAVAILABLE state: Invalid argument: no such layer;\n"
        )
        assert [(version, state) for _, version, state, _ in await states(engine)] == [
            ("1", "READY"),
            ("2", "UNAVAILABLE"),
            ("3", "UNAVAILABLE"),
        ]
        assert engine.model("m").version == 1
        await engine.infer_request(request())
        assert not engine.is_ready()
        assert engine.health().problems
        del backend.open_errors["m", 2]
        await engine.load("m")
        assert [model.version for model in engine.versions()] == [1, 2, 3]
        assert engine.is_ready()
        await settle()
    assert sorted(backend.opened) == sorted(backend.closed)
    assert backend.instances_open == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("boom"), "Internal: RuntimeError: boom"),
        (Internal("quiet"), "Internal: quiet"),
        (KeyError(), "Internal: KeyError"),
        (SystemExit(3), "Internal: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("where", ["model", "instance", "instance on a thread"])
async def test_a_failed_load_says_why(repository, opened, backend, error, reason, where):
    """Goal: whatever a backend raises, wherever, becomes the state's reason; the engine lives; nothing stays open."""
    write_model(repository, "m", instances=1)
    backend.asynchronous = where != "instance on a thread"
    if where == "model":
        backend.open_errors["m", 1] = error
    else:
        backend.instance_error = error
    async with opened(**EXPLICIT) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await engine.load("m")
        assert caught.value.message == (f"load failed for model 'm': version 1 is at UNAVAILABLE state: {reason};\n")
        assert await states(engine) == [("m", "1", "UNAVAILABLE", reason)]
        assert not engine.is_ready()
        assert engine.is_live()
        await engine.unload("m")
        assert not engine.is_ready()
        backend.open_errors.clear()
        backend.instance_error = None
        await engine.load("m")
        assert engine.is_ready()
        await engine.infer_request(request())
    assert backend.instances_open == 0
    assert len(backend.opened) == len(backend.closed)


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_instance_that_fails_takes_its_siblings_along(repository, backend, opened, asynchronous):
    """Goal: when the third of four instances does not open, those that did are closed, and the model with them."""
    backend.asynchronous = asynchronous
    write_model(repository, "m", instances=4)
    backend.instance_error, backend.instances_before_error = RuntimeError("no more memory"), 2
    async with opened(**EXPLICIT) as engine:
        with pytest.raises(InvalidArgument, match="RuntimeError: no more memory"):
            await engine.load("m")
        assert backend.instances_open == 0
        assert backend.opened == backend.closed == [("m", 1)]


async def test_retries(virtual_time, repository, backend, opened):
    """Goal: model_load_retry_count repeats a failing open that often."""
    write_model(repository, "m")
    backend.open_errors["m", 1] = RuntimeError("boom")
    async with opened(model_load_retry_count=2, **EXPLICIT) as engine:
        with pytest.raises(InvalidArgument):
            await engine.load("m")
    assert len(backend.contexts) == 3


VERSIONLESS = (
    "load failed for model '{0}': at least one version must be available under the version policy of model '{0}'\n"
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "Model name cannot be empty. Please enter a valid name to deploy."),
        ("  ", "Model name cannot be empty. Please enter a valid name to deploy."),
        ("..", "invalid model name '..', model name must not contain path traversal characters"),
        ("a/b", "invalid model name 'a/b', model name must not contain path traversal characters"),
        ("none", "failed to load 'none', failed to poll from model repository"),
        ("empty", VERSIONLESS.format("empty")),
        ("odd", "failed to load 'odd', failed to poll from model repository"),
        ("twice", "failed to load 'twice', failed to poll from model repository"),
        ("nul\0l", "failed to load 'nul\0l', failed to poll from model repository"),
        ("latest0", VERSIONLESS.format("latest0")),
    ],
)
async def test_load_errors(virtual_time, repository, backend, tmp_path, name, message):
    """Goal: the texts of loads that do not get as far as the backend."""
    write_model(repository, "empty", versions=())
    write_model(repository, "odd", config='backend: "fake" max_batch_size: "x"')
    write_model(repository, "twice")
    write_model(tmp_path / "other", "twice")
    write_model(repository, "latest0", more="version_policy { latest { num_versions: 0 } }")
    async with despina.open_engine([repository, tmp_path / "other"], backends={"fake": backend}, **EXPLICIT) as engine:
        with pytest.raises((Internal, InvalidArgument)) as caught:
            await engine.load(name)
        assert caught.value.message == message
        assert engine.is_ready() == (message != VERSIONLESS.format(name))
    assert backend.contexts == []


async def test_a_name_is_trimmed(virtual_time, repository, backend, opened):
    """Goal: blanks around a name are not part of it."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load(" m ")
        assert engine.is_model_ready("m")


async def test_unloading_the_unknown_is_no_error(virtual_time, repository, backend, opened):
    """Goal: unload of a model never heard of, or never loaded, succeeds silently."""
    write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.unload("nobody")
        await engine.unload("m")
        assert await states(engine) == [("m", "", "", "")]


async def test_unload_answers_at_once_and_waits_for_the_inflight(virtual_time, repository, backend, opened):
    """Goal: UNLOADING while a request executes, which is answered; only then the model is closed."""
    write_model(repository, "m")
    backend.cost_s = 10
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        async with trio.open_nursery() as nursery:
            answers = []

            async def call():
                answers.append(value_of(await engine.infer_request(request(value=3))))

            nursery.start_soon(call)
            nursery.start_soon(call)
            await settle()
            began = trio.current_time()
            await engine.unload("m")
            assert trio.current_time() == began
            assert await states(engine) == [("m", "1", "UNLOADING", "")]
            assert not engine.is_ready()
            with pytest.raises((NotFound, NotReady)):
                engine.model("m")
            await trio.sleep(15)
            assert backend.closed == []
        assert answers == [3, 3]
        await settle()
        assert await states(engine) == [("m", "1", "UNAVAILABLE", "unloaded")]
        assert backend.closed == [("m", 1)]


async def test_a_load_during_an_unload_takes_its_place(virtual_time, repository, backend, opened):
    """Goal: while the old one finishes its request, a new one is opened and stays READY when the old one is gone."""
    write_model(repository, "m")
    backend.cost_s = 10
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.infer_request, request())
            await settle()
            await engine.unload("m")
            await engine.load("m")
            assert await states(engine) == [("m", "1", "READY", "")]
        await settle()
        assert await states(engine) == [("m", "1", "READY", "")]
        assert (len(backend.opened), len(backend.closed)) == (2, 1)


async def test_unloading_lasts_until_the_last_of_them_is_gone(virtual_time, repository, backend, opened):
    """Goal: two generations on their way out at once: the index says UNLOADING until both are closed."""
    write_model(repository, "m")
    backend.execute = gate = Gate()
    async with opened(**EXPLICIT) as engine, trio.open_nursery() as nursery:
        for _ in range(2):
            await engine.load("m")
            nursery.start_soon(engine.infer_request, request())
            await settle()
            await engine.unload("m")
        gate.release()
        await settle()
        assert (len(backend.closed), await states(engine)) == (1, [("m", "1", "UNLOADING", "")])
        gate.release()
        await settle()
        assert (len(backend.closed), await states(engine)) == (2, [("m", "1", "UNAVAILABLE", "unloaded")])


async def test_loads_of_one_model_are_serial_and_of_two_parallel(repository, backend, opened):
    """Goal: real threads: the second load of a model waits for the first; another model's does not."""
    write_model(repository, "a")
    write_model(repository, "b")
    backend.open_gates["a"] = threading.Event()
    async with opened(**EXPLICIT) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.load, "a")
        await trio.to_thread.run_sync(backend.opening.acquire)
        nursery.start_soon(engine.load, "a")
        await engine.load("b")
        assert [context.name for context in backend.contexts] == ["a", "b"]
        assert (await states(engine))[0][2] == "LOADING"
        assert not engine.is_ready()
        backend.open_gates["a"].set()
    assert [context.name for context in backend.contexts] == ["a", "b"]


async def test_a_caller_who_leaves_does_not_stop_a_load(repository, backend, opened):
    """Goal: real threads: the command goes on unobserved."""
    write_model(repository, "m")
    backend.open_gates["m"] = threading.Event()
    async with opened(**EXPLICIT) as engine:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.load, "m")
                await trio.to_thread.run_sync(backend.opening.acquire)
                scope.cancel()
        backend.open_gates["m"].set()
        await engine.load("m")
        assert len(backend.opened) == 1


async def test_stopping_while_a_load_is_held(repository, backend, opened):
    """Goal: real threads: the load's sender is told, and nothing stays open."""
    write_model(repository, "m")
    backend.open_gates["m"] = threading.Event()
    heard = []

    async def load(engine):
        try:
            await engine.load("m")
            heard.append("loaded")
        except ShuttingDown as fault:
            heard.append(fault.message)

    async with trio.open_nursery() as nursery, opened(**EXPLICIT) as engine:
        nursery.start_soon(load, engine)
        await trio.to_thread.run_sync(backend.opening.acquire)
        nursery.start_soon(engine.stop)
        await trio.testing.wait_all_tasks_blocked()
        backend.open_gates["m"].set()
    assert heard == ["Server not ready"]
    assert len(backend.opened) == len(backend.closed) == 1
    assert backend.instances_open == 0


async def test_stopping_while_loads_of_one_model_wait_for_each_other(repository, backend, opened):
    """Goal: each sender is told the same, also the one whose turn comes when the first has been told."""
    write_model(repository, "m")
    write_model(repository, "busy")
    backend.open_gates["m"] = threading.Event()
    backend.execute = gate = Gate()
    heard = []
    told = trio.Event()

    async def load(engine):
        with pytest.raises(ShuttingDown, match=r"^Server not ready$"):
            await engine.load("m")
        heard.append("stopped")
        if len(heard) == 2:
            told.set()

    async with trio.open_nursery() as nursery, opened(load_model="busy", **EXPLICIT) as engine:
        backend.opening.acquire()
        nursery.start_soon(engine.infer_request, request("busy", 1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(load, engine)
        nursery.start_soon(load, engine)
        await trio.to_thread.run_sync(backend.opening.acquire)
        nursery.start_soon(engine.stop)
        await trio.testing.wait_all_tasks_blocked()
        backend.open_gates["m"].set()
        with trio.fail_after(10):
            await told.wait()
        gate.release()
    assert len(backend.opened) == len(backend.closed) == 2


async def test_stop_finishes_what_is_inside(virtual_time, repository, backend, opened):
    """Goal: queued and executing requests are answered, new ones refused, of unloading models too."""
    write_model(repository, "m")
    write_model(repository, "leaving")
    backend.cost_s = 5
    outcomes = []

    async def call(engine, model):
        try:
            outcomes.append(value_of(await engine.infer_request(request(model, 1))))
        except Exception as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        async with opened(load_model="*", **EXPLICIT) as engine:
            for model in ("m", "m", "leaving"):
                nursery.start_soon(call, engine, model)
            await settle()
            await engine.unload("leaving")
            nursery.start_soon(engine.stop)
            await settle()
            with pytest.raises(ShuttingDown) as caught:
                await engine.infer_request(request("m"))
            assert caught.value.message == (
                "[request id: <id_unknown>] Server is stopping, scheduler for model has stopped accepting new "
                "inference requests"
            )
            for ask in (engine.is_live, engine.is_ready):
                with pytest.raises(ShuttingDown, match=r"^Server exiting$"):
                    ask()
            for ask in (engine.statistics, lambda: engine.is_model_ready("m")):
                with pytest.raises(ShuttingDown, match=r"^Server not ready$"):
                    ask()
            with pytest.raises(ShuttingDown, match=r"^Server not ready$"):
                await engine.index()
            assert not engine.health().ready
        with pytest.raises(Unavailable, match=r"^Server not ready$"):
            await engine.load("m")
    assert outcomes == [1, 1, 1]
    assert backend.instances_open == 0


async def test_stop_gives_up_after_the_exit_timeout(virtual_time, repository, backend, opened):
    """Goal: a request that never ends is answered with a fault when the time is up; stop says so, once."""
    write_model(repository, "m")
    backend.execute = Gate()
    outcomes = []

    async def call(engine):
        try:
            await engine.infer_request(request())
        except ShuttingDown as fault:
            outcomes.append(fault.message)

    async with trio.open_nursery() as nursery:
        with pytest.raises(Internal, match=r"^Exit timeout expired\. Exiting immediately\.$"):  # noqa: PT012
            async with opened(exit_timeout_secs=7) as engine:
                nursery.start_soon(call, engine)
                nursery.start_soon(call, engine)
                await settle()
                began = trio.current_time()
        assert 7 <= trio.current_time() - began < 8
    assert sorted(outcomes) == [
        "[request id: <id_unknown>] the model was unloaded before its turn came",
        "the model was unloaded while it executed",
    ]


@pytest.mark.parametrize("exit_on_error", [True, False])
async def test_start_with_a_model_that_fails(virtual_time, repository, backend, opened, exit_on_error):
    """Goal: exit_on_error refuses to start and closes everything; without it the others serve."""
    write_model(repository, "bad")
    write_model(repository, "good")
    backend.open_errors["bad", 1] = RuntimeError("boom")
    if exit_on_error:
        with pytest.raises(Internal, match=r"^failed to load all models$"):
            async with opened():
                pass
    else:
        async with opened(exit_on_error=False) as engine:
            assert engine.is_live()
            assert not engine.is_ready()
            assert await states(engine) == [
                ("bad", "1", "UNAVAILABLE", "Internal: RuntimeError: boom"),
                ("good", "1", "READY", ""),
            ]
            await engine.infer_request(request("good"))
    assert backend.opened == backend.closed == [("good", 1)]
    assert backend.instances_open == 0


async def test_lax_readiness(virtual_time, repository, backend, opened):
    """Goal: without strict readiness a failed model is a problem that is told, not a reason."""
    write_model(repository, "bad")
    backend.open_errors["bad", 1] = RuntimeError("boom")
    async with opened(exit_on_error=False, strict_readiness=False) as engine:
        assert engine.is_ready()
        assert engine.health().problems == ("model 'bad' version 1 is UNAVAILABLE: Internal: RuntimeError: boom",)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [10]),
        ("version_policy { latest { num_versions: 2 } }", [2, 10]),
        ("version_policy { all {} }", [0, 1, 2, 10]),
        ("version_policy { specific { versions: [1, 2, 99] } }", [1, 2]),
    ],
)
async def test_version_policies(virtual_time, repository, backend, opened, policy, expected):
    """Goal: which directories are versions, in numeric order, and which of them each policy serves."""
    path = write_model(
        repository, "m", versions=(0, 1, 2, 10, "007", "warmup", "initial_state", "configs", "nan"), more=policy
    )
    (path / "99").write_text("a file is no version")
    async with opened() as engine:
        assert [model.version for model in engine.versions()] == expected
        assert engine.model("m").version == expected[-1]
        assert engine.model_metadata("m").versions == [str(version) for version in expected]
        assert engine.model_metadata("m", expected[0]).versions == [str(expected[0])]
        assert value_of(await engine.infer_request(request(value=1, model_version=expected[0]))) == 1
        assert backend.executed[-1].version == expected[0]


async def test_versions_out_of_policy_are_retired(virtual_time, repository, backend, opened):
    """Goal: a reload under a narrower policy unloads what it no longer serves."""
    path = write_model(repository, "m", versions=(1, 2), more="version_policy { all {} }")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        write_model(repository, "m", more="version_policy { specific { versions: [2] } }")
        touch(path / "config.pbtxt", 1)
        await engine.load("m")
        await settle()
        assert await states(engine) == [("m", "1", "UNAVAILABLE", "unloaded"), ("m", "2", "READY", "")]
        assert engine.is_ready()


async def test_statistics_restart_and_metrics_carry_on(virtual_time, repository, backend, opened):
    """Goal: a reload resets statistics; what metrics need is carried over."""
    path = write_model(repository, "m")
    async with opened(**EXPLICIT) as engine:
        await engine.load("m")
        for _ in range(3):
            await engine.infer_request(request())
        for _ in range(2):
            touch(path / "1", 1)
            await engine.load("m")
            await engine.infer_request(request())
        model = engine.model("m")
        assert (model.statistics.success_count, model.carried.success_count) == (1, 4)


async def test_the_index_lists_directories(virtual_time, repository, backend, tmp_path):
    """Goal: every directory of every repository, sorted; duplicates once; files not at all."""
    other = tmp_path / "other"
    for where, name in ((repository, "b"), (repository, "twice"), (other, "twice"), (other, "a")):
        write_model(where, name)
    (repository / "file").write_text("")
    async with despina.open_engine(
        [repository, other], backends={"fake": backend}, load_model="a", **EXPLICIT
    ) as engine:
        assert await states(engine) == [
            ("a", "1", "READY", ""),
            ("b", "", "", ""),
            ("twice", "", "UNAVAILABLE", "model appears in two or more repositories"),
        ]
        assert [entry.name for entry in await engine.index(ready_only=True)] == ["a"]


async def test_the_wildcard_stands_alone(virtual_time, repository, backend, opened):
    """Goal: `*` loads everything, and only by itself."""
    for name in ("a", "b"):
        write_model(repository, name)
    async with opened(load_model="*", **EXPLICIT) as engine:
        assert [model.name for model in engine.versions()] == ["a", "b"]
    with pytest.raises(InvalidArgument, match="must be the ONLY startup model"):
        async with opened(load_model=("*", "a"), **EXPLICIT):
            pass


@pytest.mark.parametrize("mode", ["none", "poll"])
async def test_load_and_unload_need_explicit_mode(virtual_time, repository, backend, opened, mode):
    """Goal: the same text in both other modes; polling by hand works in poll mode only."""
    write_model(repository, "m")
    async with opened(model_control_mode=mode) as engine:
        for call in (engine.load, engine.unload):
            with pytest.raises(Unavailable) as caught:
                await call("m")
            assert caught.value.message == NOT_EXPLICIT
        if mode == "none":
            with pytest.raises(Unavailable, match=r"^polling is disabled$"):
                await engine.poll()


async def test_polling_follows_the_directories(virtual_time, repository, backend, opened, tmp_path):
    """Goal: added, modified, broken, deleted, duplicated models, each at the next look and not before."""
    path = write_model(repository, "m", max_batch_size=1)
    (tmp_path / "other").mkdir()
    async with despina.open_engine(
        [repository, tmp_path / "other"],
        backends={"fake": backend},
        model_control_mode="poll",
        repository_poll_secs=60,
    ) as engine:
        await trio.sleep(1)
        write_model(repository, "new")
        await trio.sleep(58)
        assert [model.name for model in engine.versions()] == ["m"]
        await trio.sleep(2)
        assert [model.name for model in engine.versions()] == ["m", "new"]
        write_model(repository, "m", max_batch_size=2)
        touch(path / "config.pbtxt", 1)
        await trio.sleep(60)
        assert engine.model("m").config.max_batch_size == 2
        opened_before = len(backend.opened)
        await trio.sleep(600)
        assert len(backend.opened) == opened_before
        (path / "config.pbtxt").write_text("broken {")
        touch(path / "config.pbtxt", 3)
        await trio.sleep(60)
        assert engine.model("m").config.max_batch_size == 2
        write_model(repository, "m", max_batch_size=3)
        touch(path / "config.pbtxt", 5)
        await trio.sleep(60)
        assert engine.model("m").config.max_batch_size == 3
        (repository / "new").rename(tmp_path / "elsewhere")
        await trio.sleep(60)
        assert [model.name for model in engine.versions()] == ["m"]
        write_model(tmp_path / "other", "m")
        await trio.sleep(60)
        assert list(engine.versions()) == []


async def test_a_repository_that_goes_away(virtual_time, repository, tmp_path, opened, caplog):
    """Goal: polling and the index say so; what is loaded serves on, and so it does when the directory is back."""
    write_model(repository, "m")
    async with opened(model_control_mode="poll", repository_poll_secs=60) as engine:
        repository.rename(tmp_path / "elsewhere")
        await trio.sleep(61)
        assert f"failed to open directory {repository}" in caplog.text
        with pytest.raises(Internal, match="failed to open directory"):
            await engine.index()
        assert value_of(await engine.infer_request(request(value=3))) == 3
        (tmp_path / "elsewhere").rename(repository)
        await trio.sleep(61)
        assert [entry.state for entry in await engine.index()] == ["READY"]


async def test_polling_by_hand(virtual_time, repository, backend, opened):
    """Goal: `poll` looks now; an interval of 0 never looks by itself."""
    async with opened(model_control_mode="poll", repository_poll_secs=0) as engine:
        write_model(repository, "m")
        await trio.sleep(80_000)
        assert list(engine.versions()) == []
        await engine.poll()
        assert [model.name for model in engine.versions()] == ["m"]


async def test_custom_configurations(virtual_time, repository, backend, opened):
    """Goal: model_config_name prefers configs/<name>.pbtxt where there is one."""
    for name in ("a", "b"):
        write_model(repository, name, max_batch_size=1)
    (repository / "a" / "configs").mkdir()
    (repository / "a" / "configs" / "big.pbtxt").write_text(config_text(max_batch_size=64))
    async with opened(model_config_name="big") as engine:
        assert (engine.model("a").config.max_batch_size, engine.model("b").config.max_batch_size) == (64, 1)


async def test_a_repository_that_is_none(virtual_time, tmp_path):
    """Goal: a path that is no directory is refused at start."""
    with pytest.raises(ValueError, match="repository path is not a valid directory"):
        async with despina.open_engine(tmp_path / "nowhere", backends={"fake": FakeBackend()}):
            pass


async def test_closing_that_fails_is_logged_only(virtual_time, repository, backend, opened, caplog):
    """Goal: an instance whose close raises leaves a line in the log and no other trace."""
    write_model(repository, "m")
    backend.close_error = RuntimeError("stuck valve")
    with caplog.at_level(logging.ERROR):
        async with opened(**EXPLICIT) as engine:
            await engine.load("m")
            await engine.unload("m")
            await settle()
            assert await states(engine) == [("m", "1", "UNAVAILABLE", "unloaded")]
            assert engine.is_ready()
    assert "failed to close" in caplog.text


async def test_no_time_to_stop_is_enough_to_close(repository, backend, opened):
    """Goal: real threads: with an exit timeout of 0 nothing is waited for, but models are closed all the same."""
    write_model(repository, "m")
    with suppress(Internal):  # that it took longer than 0 s
        async with opened(exit_timeout_secs=0):
            pass
    assert backend.opened == backend.closed == [("m", 1)]
