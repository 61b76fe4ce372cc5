"""For how long what doors remember holds."""

import gc

from despina.engine.observe.generation import Generation
from despina.engine.observe.tracing import Tracer
from despina.engine.port.settings import TraceSettings

from tests.fakes import Keeper, write_model


def test_keepers_are_told_once():
    """Goal: each is told when its generation is over, and not of later ones unless it keeps something again."""
    generation, keeper = Generation(), Keeper()
    generation.keep(keeper)
    generation.keep(keeper)
    for _ in range(3):
        generation.bump()
    assert keeper.told == 1
    generation.keep(keeper)
    generation.bump()
    assert keeper.told == 2


def test_keepers_are_not_kept():
    """Goal: a connection that has gone is not held by what would tell it."""
    generation = Generation()
    for _ in range(100):
        generation.keep(Keeper())
    gc.collect()
    assert not list(generation._keepers)


async def test_each_change_of_what_serves_is_another(opened, repository):
    """Goal: loading, reloading and unloading count, each after the look-up finds what it made."""
    write_model(repository, "m")
    async with opened(model_control_mode="explicit") as engine:
        found = []

        class Looker:
            def let_go(self):
                found.append(engine.registry._serving.get(("m", 1)))

        for size, command in ((1, engine.load), (2, engine.load), (2, engine.unload)):
            write_model(repository, "m", max_batch_size=size)
            looker = Looker()
            engine.generation.keep(looker)
            await command("m")
        assert len(found) == 3
        assert found[0] is not None
        assert found[1] not in (None, found[0])
        assert found[2] is None


def test_tracing_that_begins_is_another():
    """Goal: nothing that was remembered while nothing was traced outlives that; other changes of settings void none."""
    generation, keeper = Generation(), Keeper()
    tracer = Tracer(TraceSettings(file="f"), lambda _: True, lambda _: None, generation)
    generation.keep(keeper)
    tracer.change({"rate": 7})
    assert keeper.told == 0
    tracer.change({"level": ("TIMESTAMPS",)})
    assert keeper.told == 1
    generation.keep(keeper)
    tracer.change({"rate": 8})
    assert keeper.told == 1
