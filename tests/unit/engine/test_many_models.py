"""Cost that grows with what a command concerns, and not with all models that there are. Counted, not timed."""

import gc
import sys

import despina
import pytest
from despina.engine.repository.ensembles import in_order

from tests.bench.models import write_ensemble, write_models
from tests.in_process import SETTING

PLACE = "/despina/engine/"


async def calls_in_the_engine(act):
    """How many functions of the engine are called while it acts, on this thread."""
    count = 0

    def note(frame, event, _):
        nonlocal count
        count += event == "call" and PLACE in frame.f_code.co_filename

    gc.collect()  # what it finalizes would count
    sys.setprofile(note)
    try:
        await act()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def repository(tmp_path):
    """A model and 40 ensembles that ask it, and as many that ask one that is not there."""
    write_models(tmp_path, ("simple",))
    for index in range(40):
        write_ensemble(tmp_path, f"served{index}", "simple")
        write_ensemble(tmp_path, f"waits{index}", "missing")
    return tmp_path


@pytest.mark.parametrize("kind", ["served", "waits"])
async def test_a_load_costs_the_same_beside_many_ensembles(repository, kind):
    """Goal: neither what serves nor what waits is looked at by a load that does not concern it. Method: count calls of
    a load and unload beside none and beside 40."""

    async def load_and_unload():
        await engine.load("served0")
        await engine.unload("served0")

    async with despina.open_engine(
        repository, model_control_mode="explicit", load_model=["simple"], backend_config=SETTING
    ) as engine:
        await load_and_unload()
        alone = await calls_in_the_engine(load_and_unload)
        for index in range(1, 40):
            if kind == "served":
                await engine.load(f"served{index}")
            else:
                with pytest.raises(despina.Fault, match="load failed"):
                    await engine.load(f"waits{index}")
        beside = await calls_in_the_engine(load_and_unload)
    assert beside < alone * 1.5


def test_the_order_of_a_long_chain_is_found_in_linear_time():
    """Goal: neither quadratic nor as deep as the chain. Method: one that a recursion could not follow."""
    chain = {f"e{index}": [f"e{index + 1}"] for index in range(20_000)}
    assert in_order(chain) == list(reversed(chain))
