"""What an embedding program may pass, and that a type checker knows it."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys

import attrs
import despina
import numpy as np
import pytest
import trio
from despina.engine.port.options import EngineOptions
from despina.engine.request.call import InferOptions, request_of
from despina.schema import fault as fault_module

from tests.fakes import FakeBackend, write_model

RIGHT = '''
from typing import Unpack

import despina

async def run() -> None:
    async with despina.open_engine("models", model_control_mode="explicit", load_model=["a"], id="x") as engine:
        await engine.infer("a", {}, timeout=1.5, sequence_id="x")
        async for result in engine.stream("a", {}, outputs=["OUT"], timeout=None):
            print(result["OUT"].shape)

def block() -> None:
    try:
        with despina.blocking.open_engine(["a", "b"], load_model="*", trace=despina.TraceSettings()) as engine:
            engine.infer("a", {}, priority=1)
            list(engine.stream("a", {}, parameters={"k": 1}))
    except (despina.NotFound, despina.QueueFull) as fault:
        print(fault.message)

def wrapped(**options: Unpack[despina.EngineOptions]) -> despina.EngineSettings:
    """What a program of the user's own does that passes options on."""
    with despina.blocking.open_engine("models", **options) as engine:
        engine.infer("a", {})
    return despina.EngineSettings(model_repository="models", id="x", load_model="a", model_control_mode="explicit")
'''
WRONG = """
import despina

async def run() -> None:
    async with despina.open_engine("models", model_control_mod="explicit") as engine:
        engine.stream("a", {}, time_out=1.5)
    despina.open_engine("models", exit_timeout_secs="1")
    despina.open_engine("models", model_control_mode="sometimes")

def block(engine: despina.blocking.BlockingEngine) -> None:
    despina.blocking.open_engine("models", load_models=["a"])
    engine.infer("a", {}, priority="1")
    engine.stream("a", {}, time_out=1)

def wrapped(options: despina.EngineOptions) -> None:
    options["queue_size_max"] = "many"
"""


def checked(tmp_path, text):
    """The numbers of the lines that mypy complains of, and what it says."""
    snippet = tmp_path / "snippet.py"
    snippet.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", str(snippet)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert all(line.startswith(str(snippet)) for line in lines), done.stdout
    return {int(line.split(":")[1]) for line in lines}, done.stdout + done.stderr


def test_mypy_knows_every_option(tmp_path):
    """Goal: right programs pass mypy --strict; a slip in a name or a type does not."""
    found, said = checked(tmp_path, RIGHT)
    assert not found, said
    found, said = checked(tmp_path, WRONG)
    assert found == {5, 6, 7, 8, 11, 12, 13, 16}, said


def test_options_are_the_settings_fields():
    """Goal: no option without a setting, no setting that cannot be given; `Any` nowhere."""
    fields = {field.name for field in attrs.fields(despina.EngineSettings)} - {"model_repository"}
    assert EngineOptions.__annotations__.keys() == fields
    for function in (despina.open_engine, despina.blocking.open_engine):
        parameters = inspect.signature(function).parameters
        assert parameters["options"].annotation == "Unpack[EngineOptions]"
        assert parameters.keys() == {"model_repository", "backends", "open_traces", "agents", "caches", "options"}


def keywords(function):
    return {
        name: parameter.annotation
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def test_infer_and_stream_take_the_same():
    """Goal: one list of options for one request, with the same types, whoever sends it."""
    infer = keywords(despina.Engine.infer)
    assert keywords(despina.Engine.stream) == infer
    assert infer.keys() == InferOptions.__annotations__.keys()
    assert keywords(request_of).items() <= infer.items()
    assert infer.keys() - keywords(request_of).keys() == {"timeout"}


def test_every_fault_is_exported():
    """Goal: whoever catches a fault finds its class at the top."""
    tree = {
        name
        for name, value in vars(fault_module).items()
        if isinstance(value, type) and issubclass(value, despina.Fault)
    }
    assert len(tree) >= 17
    assert tree <= set(despina.__all__)
    assert all(getattr(despina, name) is getattr(fault_module, name) for name in tree)


@pytest.mark.parametrize("options", [{}, {"model_control_mode": "none"}, {"model_control_mode": "poll"}])
async def test_a_list_of_models_needs_the_mode_that_reads_it(tmp_path, options):
    """Goal: refused as on the command line; loading everything instead would be a surprise."""
    write_model(tmp_path, "a")
    with pytest.raises(ValueError, match="requires setting '--model-control-mode=explicit'"):
        async with despina.open_engine(tmp_path, backends={"fake": FakeBackend()}, load_model=["a"], **options):
            pass  # pragma: no cover
    with (
        pytest.raises(ValueError, match="requires setting '--model-control-mode=explicit'"),
        despina.blocking.open_engine(tmp_path, backends={"fake": FakeBackend()}, load_model="a", **options),
    ):
        pass  # pragma: no cover


ONE = {"IN": np.array([[7]], np.int32)}

REFUSED = [
    ({"model_control_mod": "explicit"}, TypeError, "no option 'model_control_mod'; did you mean 'model_control_mode'?"),
    ({"load-model": ["a"]}, TypeError, "no option 'load-model'; did you mean 'load_model'?"),
    ({"http_port": 1}, TypeError, "no option 'http_port': it is one of `despina serve`"),
    ({"trace_config": "x"}, TypeError, "traces are set with trace=despina.TraceSettings"),
    ({"wings": 2, "load_models": "a"}, TypeError, "'wings'; despina.EngineSettings lists them; open_engine has no opt"),
    ({"model_control_mode": "explicit_"}, ValueError, "got 'explicit_'; did you mean 'explicit'?"),
    ({"model_load_thread_count": "4"}, TypeError, "'model_load_thread_count' must be a whole number, got '4'"),
    ({"exit_timeout_secs": None}, TypeError, "'exit_timeout_secs' must be a number, got None"),
    ({"exit_on_error": "no"}, TypeError, "'exit_on_error' must be True or False, got 'no'"),
    ({"queue_size_max": True}, TypeError, "'queue_size_max' must be a whole number, got True"),
    ({"cache_config": "local"}, TypeError, "'cache_config' must be a mapping of names to mappings, got 'local'"),
]


@pytest.mark.parametrize(("options", "kind", "words"), REFUSED)
async def test_what_cannot_be_is_said_in_words(tmp_path, options, kind, words):
    """Goal: a wrong name or value is refused before anything opens, with the name that was meant; both doors alike."""
    with pytest.raises(kind) as refusal:
        async with despina.open_engine(tmp_path, **options):
            pass  # pragma: no cover
    assert words in str(refusal.value)
    with pytest.raises(kind) as refusal, despina.blocking.open_engine(tmp_path, **options):
        pass  # pragma: no cover
    assert words in str(refusal.value)


@pytest.mark.parametrize("number", [np.int64(3), 3])
def test_numbers_of_other_libraries_are_numbers(number):
    """Goal: counts and seconds may come from arrays."""
    settings = despina.EngineSettings(model_repository="x", queue_size_max=number, load_wait_secs=number)
    assert settings.queue_size_max == 3


def test_asyncio_is_told_what_to_use_instead(tmp_path):
    """Goal: the error names two ways under asyncio, and both of them work there."""
    write_model(tmp_path, "a")

    async def in_trio():
        async with despina.open_engine(tmp_path, backends={"fake": FakeBackend()}) as engine:
            return (await engine.infer("a", ONE))["OUT"].shape

    async def main():
        with pytest.raises(RuntimeError) as refusal:
            async with despina.open_engine(tmp_path, backends={"fake": FakeBackend()}):
                pass  # pragma: no cover
        assert "this is asyncio" in str(refusal.value)
        assert "despina.blocking.open_engine" in str(refusal.value)
        assert "asyncio.to_thread(trio.run, main)" in str(refusal.value)
        with despina.blocking.open_engine(tmp_path, backends={"fake": FakeBackend()}) as engine:
            result = await asyncio.to_thread(engine.infer, "a", ONE)
        return result["OUT"].shape, await asyncio.to_thread(trio.run, in_trio)

    first, second = asyncio.run(main())
    assert first == second


def test_without_any_loop_trio_is_named(tmp_path):
    """Goal: not a riddle of trio's inside when somebody steps it by hand, or uses another library's loop."""
    with pytest.raises(RuntimeError, match="trio, which is not running here"):
        despina.open_engine(tmp_path).__aenter__().send(None)
