"""Models of one name in several repositories, told apart by where they are."""

import despina
import pytest
import trio
from despina.schema.fault import Internal, InvalidArgument, NotFound

from tests.fakes import chain, config_text, request, touch, value_of, write_ensemble, write_model

EXPLICIT = {"model_control_mode": "explicit"}
AMBIGUOUS = (
    "There are 2 identifiers of model 'both' in global map, model namespace must be provided to resolve ambiguity."
)
UNKNOWN = "Identifier of model 'both' is not found in global map"


@pytest.fixture
def places(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def namespaced(places, backend):
    def open_it(**options):
        return despina.open_engine(places, backends={"fake": backend}, model_namespacing=True, **options)

    return open_it


async def lines(engine):
    return [(entry.name, entry.version, entry.state) for entry in await engine.index()]


async def test_a_name_in_two_repositories(virtual_time, places, backend, namespaced):
    """Goal: both are loaded; the name alone means neither, and a name that only one has is as always."""
    for place in places:
        write_model(place, "both")
    write_model(places[0], "one")
    async with namespaced() as engine:
        assert engine.is_ready()
        assert await lines(engine) == [("both", "1", "READY"), ("one", "1", "READY"), ("both", "1", "READY")]
        assert value_of(await engine.infer_request(request("one", 3))) == 3
        assert [version.name for version in engine.model_metadata("one").inputs] == ["IN"]
        for ask in (engine.model, engine.model_metadata):
            with pytest.raises(InvalidArgument) as caught:
                ask("both")
            assert caught.value.message == AMBIGUOUS
        assert not engine.is_model_ready("both")
        assert sorted(model.namespace for model in engine.versions() if model.name == "both") == sorted(
            map(str, places)
        )
        with pytest.raises(InvalidArgument, match="requested model 'both' is not available"):
            engine.statistics("both")
        assert [entry.name for entry in engine.statistics()] == ["both", "one", "both"]
        with pytest.raises(InvalidArgument) as caught:
            engine.model(f"{places[0]}::one")
        assert caught.value.message == f"Request for unknown model: '{places[0]}::one' is not found"


async def test_loads_and_unloads_by_name_mean_all_of_that_name(virtual_time, places, backend, namespaced):
    for place in places:
        write_model(place, "both")
    async with namespaced(**EXPLICIT) as engine:
        assert await lines(engine) == [("both", "", ""), ("both", "", "")]
        await engine.load("both")
        assert len(backend.opened) == 2
        touch(places[1] / "both" / "1", 5)
        await engine.load("both")
        assert len(backend.opened) == 3
        await engine.unload("both")
        await trio.testing.wait_all_tasks_blocked()
        assert await lines(engine) == [("both", "1", "UNAVAILABLE")] * 2
        with pytest.raises(NotFound) as caught:
            engine.model("both")
        assert caught.value.message == UNKNOWN
        with pytest.raises(Internal):
            await engine.load("nobody")


async def test_polls_make_names_ambiguous_and_clear(virtual_time, places, backend, namespaced):
    """Goal: as repositories get and lose a model of the name."""
    write_model(places[0], "both")
    async with namespaced(model_control_mode="poll", repository_poll_secs=0) as engine:
        assert engine.model("both").namespace == str(places[0])
        path = write_model(places[1], "both")
        await engine.poll()
        with pytest.raises(InvalidArgument):
            engine.model("both")
        path.rename(places[1].parent / "away")
        await engine.poll()
        assert engine.model("both").namespace == str(places[0])
        assert value_of(await engine.infer_request(request("both", 3))) == 3


async def test_ensembles_ask_the_models_beside_them(virtual_time, places, backend, namespaced):
    """Goal: of the own repository first, else the only one of the name; ambiguous ones are refused."""
    third = places[0].parent / "c"
    third.mkdir()
    for place in places:
        write_model(place, "both")
        write_ensemble(place, f"near_{place.name}", steps=chain("both"))
    write_model(places[0], "one")
    write_ensemble(places[1], "far", steps=chain("one"))
    write_ensemble(third, "torn", steps=chain("both"))
    async with despina.open_engine(
        [*places, third], backends={"fake": backend}, model_namespacing=True, exit_on_error=False
    ) as engine:
        for name, namespace in (("near_a", "a"), ("near_b", "b"), ("far", "a")):
            assert value_of(await engine.infer_request(request(name, 8))) == 8
            (asked,) = engine.model(name).parts._of_step
            assert (asked.namespace, asked.statistics.success_count) == (str(places[0].parent / namespace), 1)
        entry = engine.registry.sharing("torn")[0]
        assert entry.unread == "ensemble torn contains models that are not available or ambiguous: both"


async def test_an_explicit_ensemble_brings_its_own(virtual_time, places, backend, namespaced):
    """Goal: only the models beside it, and it goes with them."""
    for place in places:
        write_model(place, "both")
    write_ensemble(places[0], "near", steps=chain("both"))
    async with namespaced(**EXPLICIT) as engine:
        await engine.load("near")
        assert [context.model_path for context in backend.contexts] == [places[0] / "both"]
        assert engine.is_model_ready("both")
        await engine.unload("near", unload_dependents=True)
        await trio.testing.wait_all_tasks_blocked()
        assert backend.closed == [("both", 1)]


async def test_what_goes_without_namespaces_only(namespaced):
    with pytest.raises(ValueError, match="'--load-on-request' cannot be used with '--model-namespacing'"):
        async with namespaced(load_on_request=True, **EXPLICIT):
            pass


async def test_uploaded_files_and_configurations(virtual_time, places, backend, namespaced):
    write_model(places[0], "m")
    tensor = '[{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}]'
    override = f'{{"backend": "fake", "input": {tensor}, "output": {tensor}}}'
    async with namespaced(**EXPLICIT) as engine:
        await engine.load("m", config=override, files={"5/model.x": b""})
        assert (engine.model("m").version, engine.model("m").namespace) == (5, str(places[0]))
        await engine.load("m", config=config_as_json())
        assert engine.model("m").version == 1


def config_as_json():
    assert "fake" in config_text()
    tensor = '[{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}]'
    return f'{{"backend": "fake", "input": {tensor}, "output": {tensor.replace("IN", "OUT", 1)}}}'
