"""Ensembles and the repository: what a load brings along, what does not fit, what happens when models come and go."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import trio
from despina.engine.model.ensemble.parts import DEPTH_MAX
from despina.schema.fault import Internal, InvalidArgument, NotFound
from despina.schema.wire.generated.inference import ModelConfig

from tests.fakes import chain, request, tensor_text, touch, value_of, write_ensemble, write_model

EXPLICIT = {"model_control_mode": "explicit"}


async def settle():
    await trio.testing.wait_all_tasks_blocked()


def ready(engine):
    return sorted(version.name for version in engine.versions())


async def refused(engine, name):
    with pytest.raises((InvalidArgument, Internal)) as caught:
        await engine.load(name)
    return caught.value.message


def write_family(repository):
    """outer asks inner and b; inner asks a and b."""
    for name in "ab":
        write_model(repository, name)
    write_ensemble(repository, "inner", steps=chain("a", "b"))
    write_ensemble(repository, "outer", steps=chain("inner", "b"))


async def test_a_load_brings_all_that_is_asked_along(virtual_time, repository, backend, opened):
    """Goal: models, and ensembles within, once each, those first that others ask."""
    write_family(repository)
    async with opened(**EXPLICIT) as engine:
        await engine.load("outer")
        assert ready(engine) == ["a", "b", "inner", "outer"]
        assert sorted(backend.opened) == [("a", 1), ("b", 1)]
        assert value_of(await engine.infer_request(request("outer", 4))) == 4
        await engine.load("outer")  # nothing has changed
        assert sorted(backend.opened) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("mode", ["none", "poll", "explicit"])
async def test_at_the_start_the_order_of_names_does_not_matter(virtual_time, repository, backend, opened, mode):
    """Goal: ensembles that come before their models, or are alone in the list, are served at the start."""
    write_family(repository)
    write_ensemble(repository, "0", steps=chain("outer", "a"))
    options = {"model_control_mode": mode} | ({"load_model": ["0"]} if mode == "explicit" else {})
    async with opened(**options) as engine:
        assert ready(engine) == ["0", "a", "b", "inner", "outer"]
        assert engine.is_ready()


async def test_what_goes_with_an_ensemble(virtual_time, repository, backend, opened):
    """Goal: by itself an ensemble leaves its models; with its dependents those go that nobody has loaded by name and
    nothing else asks."""
    write_family(repository)
    write_model(repository, "c")
    write_ensemble(repository, "other", steps=chain("b", "c"))
    async with opened(**EXPLICIT) as engine:
        await engine.load("outer")
        await engine.load("other")
        await engine.unload("outer")
        assert ready(engine) == ["a", "b", "c", "inner", "other"]
        await engine.load("outer")
        await engine.unload("outer", unload_dependents=True)
        assert ready(engine) == ["b", "c", "other"]
        await engine.load("c")
        await engine.unload("other", unload_dependents=True)
        assert ready(engine) == ["c"]
        await settle()
        assert [(one.name, one.state) for one in await engine.index()] == [
            ("a", "UNAVAILABLE"),
            ("b", "UNAVAILABLE"),
            ("c", "READY"),
            ("inner", "UNAVAILABLE"),
            ("other", "UNAVAILABLE"),
            ("outer", "UNAVAILABLE"),
        ]


async def test_a_model_that_goes_takes_ensembles_out_of_service_and_brings_them_back(
    virtual_time, repository, backend, opened, caplog
):
    """Goal: at that moment, all that ask it, over others, too; with the reason in the log; and back by themselves."""
    write_family(repository)
    async with opened(**EXPLICIT) as engine:
        await engine.load("outer")
        await engine.unload("a")
        assert ready(engine) == ["b"]
        with pytest.raises(NotFound) as caught:
            engine.model("outer")
        assert caught.value.message == "Request for unknown model: 'outer' has no available versions"
        said = [record.getMessage() for record in caplog.records]
        assert "Invalid argument: ensemble inner contains models that are not available or ambiguous: a" in said
        await settle()
        assert engine.is_ready()
        await engine.load("a")
        assert ready(engine) == ["a", "b", "inner", "outer"]
        assert value_of(await engine.infer_request(request("outer", 4))) == 4
        await engine.unload("outer")
        await engine.unload("a")
        await engine.load("a")
        assert ready(engine) == ["a", "b", "inner"], "what was unloaded itself stays away"


async def test_a_model_that_fits_no_more_and_one_that_does_again(virtual_time, repository, backend, opened, caplog):
    """Goal: a model replaced by one of another datatype takes the ensemble out of service; replaced again, it is back;
    a load of the ensemble says why meanwhile."""
    path = write_model(repository, "a")
    write_ensemble(repository, "e", steps=chain("a"))
    async with opened(**EXPLICIT) as engine:
        await engine.load("e")
        floats = tensor_text("input", "IN", "TYPE_FP32") + tensor_text("output", "OUT", "TYPE_FP32")
        write_model(repository, "a", tensors=floats)
        touch(path / "config.pbtxt", 5)
        await engine.load("a")
        assert ready(engine) == ["a"]
        text = "; ".join(
            f"in ensemble e, ensemble tensor {tensor}: inconsistent data type: TYPE_INT32 is inferred from model e "
            "while TYPE_FP32 is inferred from model a"
            for tensor in ("IN", "OUT")
        )
        assert f"Invalid argument: {text}" in [record.getMessage() for record in caplog.records]
        assert await refused(engine, "e") == f"load failed for model 'e': {text}\n"
        write_model(repository, "a")
        touch(path / "config.pbtxt", 10)
        await engine.load("a")
        assert ready(engine) == ["a", "e"]
        assert value_of(await engine.infer_request(request("e", 4))) == 4


async def test_a_model_becomes_decoupled(virtual_time, repository, backend, opened):
    """Goal: so does the ensemble, and those that ask it, at that moment, without a load of theirs."""
    write_family(repository)
    async with opened(**EXPLICIT) as engine:
        await engine.load("outer")
        assert not engine.model("outer").decoupled
        path = write_model(repository, "a", more="model_transaction_policy { decoupled: true }")
        touch(path / "config.pbtxt", 5)
        await engine.load("a")
        assert ready(engine) == ["a", "b", "inner", "outer"]
        for name in ("inner", "outer"):
            assert engine.model(name).decoupled
            assert engine.model(name).config.model_transaction_policy.decoupled


BROKEN = {
    "circle": (
        {"x": chain("y"), "y": chain("x")},
        "circular dependency between ensembles: x -> ... -> y -> x",
    ),
    "itself": ({"x": chain("x")}, "circular dependency between ensembles: x -> ... -> x -> x"),
    "longer circle": (
        {"x": chain("y"), "y": chain("z"), "z": chain("a", "x")},
        "circular dependency between ensembles: x -> ... -> y -> x",
    ),
    "missing": ({"x": chain("a", "q", "p")}, "ensemble x contains models that are not available or ambiguous: p, q"),
    "of what is broken": (
        {"x": chain("y"), "y": chain("nowhere")},
        "ensemble 'x' depends on 'y' which is not valid. Model 'y' failed with error: ensemble y contains models that "
        "are not available or ambiguous: nowhere",
    ),
    "version": ({"x": chain("a:7")}, "ensemble 'x' depends on 'a' whose required version 7 is not loaded."),
    "did not open": (
        {"x": chain("bad")},
        "ensemble 'x' depends on 'bad' which has no loaded version. Model 'bad' loading failed with error: version 1 "
        "is at UNAVAILABLE state: Internal: RuntimeError: no;",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_does_not_fit_is_refused_by_name(virtual_time, repository, backend, opened, case):
    """Goal: in the protocol's words, each time anew; other models are served."""
    ensembles, text = BROKEN[case]
    write_model(repository, "a")
    write_model(repository, "bad")
    backend.open_errors["bad", 1] = RuntimeError("no")
    for name, steps in ensembles.items():
        write_ensemble(repository, name, steps=steps)
    async with opened(**EXPLICIT) as engine:
        for _ in range(2):
            assert await refused(engine, "x") == f"load failed for model 'x': {text}\n"
        assert "x" not in ready(engine)
        await engine.load("a")
        assert value_of(await engine.infer_request(request("a", 4))) == 4


async def test_all_that_does_not_fit_is_told_at_once(virtual_time, repository, backend, opened):
    """Goal: of all steps, in their order; a tensor that no model has says nothing of those that are there."""
    write_model(repository, "a", max_batch_size=1)
    write_ensemble(repository, "x", steps=chain("a", "a"))
    path = repository / "x" / "config.pbtxt"
    path.write_text(path.read_text().replace("INT32", "FP32", 1).replace('key: "OUT"', 'key: "NOTHING"', 1))
    async with opened(**EXPLICIT) as engine:
        text = await refused(engine, "x")
    for part in (
        "but it contains model a which only allows maximum batch size to be 1; ",
        "in ensemble x, ensemble tensor IN: inconsistent data type: TYPE_FP32 is inferred from model x while TYPE_INT32"
        " is inferred from model a; ",
        "is mapped from non-existing output NOTHING in model a",
    ):
        assert part in text


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("model_transaction_policy { decoupled: true }", "'decoupled' transaction policy"),
        ("sequence_batching { }", "sequence batching scheduler"),
    ],
)
async def test_answers_that_depend_on_more_than_the_request_are_not_kept(
    virtual_time, repository, backend, opened, more, told, within
):
    """Goal: an ensemble that asks for a cache is refused as its models would be, also once one of them becomes such;
    an answer of one moment of a sequence is never given again."""
    path = write_model(repository, "a")
    write_ensemble(repository, "inner", steps=chain("a"))
    write_ensemble(repository, "x", steps=chain("inner" if within else "a"), more="response_cache { enable: true }")
    async with opened(cache_config={"local": {"size": "10000"}}, **EXPLICIT) as engine:
        await engine.load("x")
        write_model(repository, "a", more=more)
        touch(path / "config.pbtxt", 5)
        await engine.load("a")
        assert "x" not in ready(engine)
        text = f"Response Cache does not currently support model x with {told}. Please disable the response cache."
        assert text in await refused(engine, "x")


async def test_what_was_broken_is_served_once_it_is_repaired(virtual_time, repository, backend, opened):
    """Goal: a model that opens at last brings the ensembles that wait for it; without a load of theirs."""
    write_model(repository, "a")
    backend.open_errors["a", 1] = RuntimeError("no")
    write_ensemble(repository, "inner", steps=chain("a"))
    write_ensemble(repository, "outer", steps=chain("inner"))
    async with opened(**EXPLICIT) as engine:
        await refused(engine, "outer")
        assert ready(engine) == []
        backend.open_errors.clear()
        await engine.load("a")
        assert ready(engine) == ["a", "inner", "outer"]


async def test_ensembles_are_followed_by_polls(virtual_time, repository, backend, opened):
    """Goal: a poll sees a model go, and come, and an ensemble change; what did not change is left alone."""
    write_family(repository)
    async with opened(model_control_mode="poll", repository_poll_secs=0) as engine:
        assert ready(engine) == ["a", "b", "inner", "outer"]
        (repository / "a").rename(repository.parent / "a")
        await engine.poll()
        await settle()
        assert ready(engine) == ["b"]
        (repository.parent / "a").rename(repository / "a")
        await engine.poll()
        assert ready(engine) == ["a", "b", "inner", "outer"]
        path = write_ensemble(repository, "inner", steps=chain("a", "a"))
        touch(path / "config.pbtxt", 5)
        await engine.poll()
        backend.executed.clear()
        await engine.infer_request(request("inner", 4))
        assert [one.model for one in backend.executed] == ["a", "a"]
        assert backend.opened.count(("b", 1)) == 1


async def test_an_ensemble_loaded_with_a_configuration_of_its_own(virtual_time, repository, backend, opened):
    """Goal: the caller's graph takes the place of the file's, and brings its models along."""
    write_model(repository, "a")
    write_model(repository, "b")
    write_ensemble(repository, "e", steps=chain("a"))
    tensor = {"data_type": "TYPE_INT32", "dims": [1]}
    steps = [{"model_name": "b", "model_version": -1, "input_map": {"IN": "IN"}, "output_map": {"OUT": "OUT"}}]
    config = {
        "platform": "ensemble",
        "max_batch_size": 8,
        "input": [{"name": "IN", **tensor}],
        "output": [{"name": "OUT", **tensor}],
        "ensemble_scheduling": {"step": steps},
    }
    async with opened(**EXPLICIT) as engine:
        await engine.load("e", config=json.dumps(config))
        assert ready(engine) == ["b", "e"]
        assert isinstance(engine.model("e").config, ModelConfig)
        assert value_of(await engine.infer_request(request("e", 4))) == 4


async def test_versions_of_models_that_steps_name(virtual_time, repository, backend, opened):
    """Goal: a step's version is asked, whatever is the highest; without that version, the ensemble waits for it."""
    write_model(repository, "a", versions=(1, 2), more="version_policy { all {} }")
    write_ensemble(repository, "old", steps=chain("a:1"))
    write_ensemble(repository, "new", steps=chain("a"))
    async with opened(**EXPLICIT) as engine:
        await engine.load("old")
        await engine.load("new")
        for name, version in (("old", 1), ("new", 2)):
            backend.executed.clear()
            await engine.infer_request(request(name, 4))
            assert [one.version for one in backend.executed] == [version]
        path = write_model(repository, "a", versions=(1, 2), more="version_policy { latest { num_versions: 1 } }")
        touch(path / "config.pbtxt", 5)
        await engine.load("a")
        assert ready(engine) == ["a", "new"]


async def test_there_is_a_depth_beyond_which_ensembles_are_refused(virtual_time, repository, backend, opened):
    """Goal: by name, not by a stack that overflows; the deepest that is allowed answers, and fails, as any."""
    write_model(repository, "e0")
    for depth in range(1, DEPTH_MAX + 2):
        write_ensemble(repository, f"e{depth}", steps=chain(f"e{depth - 1}"))
    async with opened(**EXPLICIT) as engine:
        text = await refused(engine, f"e{DEPTH_MAX + 1}")
        assert f"contains more than {DEPTH_MAX} ensembles within each other" in text
        assert value_of(await engine.infer_request(request(f"e{DEPTH_MAX}", 4))) == 4


async def test_loads_of_the_same_models_at_once(virtual_time, repository, backend, opened):
    """Goal: many loads and unloads of ensembles over the same models end, and what is said holds: afterwards all is
    served that was loaded last."""
    write_family(repository)
    write_ensemble(repository, "other", steps=chain("outer", "a"))
    async with opened(**EXPLICIT) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                for name in ("outer", "other", "inner", "a", "b"):
                    nursery.start_soon(engine.load, name)
        assert ready(engine) == ["a", "b", "inner", "other", "outer"]
        assert sorted(backend.opened) == [("a", 1), ("b", 1)]

        async def unload_and_load(name):
            for _ in range(5):
                await engine.unload(name, unload_dependents=True)
                with suppress(InvalidArgument):  # another's unload came between
                    await engine.load(name)

        async with trio.open_nursery() as nursery:
            for name in ("outer", "other", "inner", "a"):
                nursery.start_soon(unload_and_load, name)
        await settle()
        for name in ("a", "b", "other"):
            await engine.load(name)
        assert ready(engine) == ["a", "b", "inner", "other", "outer"]
        assert value_of(await engine.infer_request(request("other", 4))) == 4
