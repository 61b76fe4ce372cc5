"""Requests of C programs whose forms are known, beside the same ones taken whole, with ONNX and Python models."""

import random

import despina
import numpy as np
import pytest
import trio
import trio.lowlevel
from despina.frontends.capi.known import KnownRequests
from despina.frontends.capi.pump import Pump
from despina.native.extension_port import INFER, KNOWN

from tests import in_process
from tests.program_library import PLAIN, ProgramLibrary
from tests.unit.frontends.test_remembered_with_real_backends import MODELS, write


def taken(dice, number):
    """A request: the right ones mostly, in bursts of one form, others with something else or something wrong."""
    name = dice.choice(MODELS)
    rows = dice.choice((1, 1, 2, 3, 5))  # five are too many
    data = []
    for _ in range(2):
        if name == "text":
            items = [b"%d" % dice.randrange(10, 100) for _ in range(3 * rows)]
            data.append(b"".join(len(item).to_bytes(4, "little") + item for item in items))
        else:
            data.append(np.array([dice.randrange(-1000, 1000) for _ in range(8 * rows)], np.int32).tobytes())
    kind, width = ("BYTES", 3) if name == "text" else ("INT32", 8)
    inputs = tuple((tensor, kind, (rows, width), wire, False) for tensor, wire in zip("AB", data, strict=True))
    if dice.random() < 0.05:
        inputs = inputs[:1]
    outputs = dice.choice(((), (), ("SUM",), ("OTHER", "SUM"), ("NONE",)))
    more = dice.choice((PLAIN,) * 8 + (({"mine": 3}, 0, 0, 0, 0, 0), (None, 0, 0, 0, 60_000_000, 0)))
    version = dice.choice((-1, -1, 1, 7))  # there is no version 7
    return number, number + 1000, name, version, dice.choice(("", f"id {number}")), inputs, outputs, *more


def bursts(seed):
    """Requests that wait together."""
    dice = random.Random(seed)
    number = 0
    for _ in range(40):
        burst = []
        while len(burst) < 12:
            one = taken(dice, 0)
            for _ in range(dice.choice((1, 1, 4))):
                number += 1
                burst.append((number, number + 1000, *one[2:4], f"id {number}", *one[5:]))
        yield burst


async def answers(root, seed, *, by_forms):
    """What a program is told of each request, and how they were taken."""
    for model in MODELS:
        write(root, model, 1)
    library = ProgramLibrary(by_forms=by_forms)
    async with despina.open_engine(
        root, backend_config=in_process.SETTING, model_control_mode="explicit", load_model=MODELS
    ) as engine:
        pump = Pump(library, 1, engine)
        sent = 0
        for number, burst in enumerate(bursts(seed)):
            if number % 10 == 9:
                write(root, "onnx", number)
                await engine.load("onnx")
                library.forget_forms()
            for one in burst:
                library.push(one)
            sent += len(burst)
            while pump.take_burst():
                pass
            with trio.fail_after(60):
                await library.until_told(sent)
    return library


@pytest.mark.parametrize("seed", range(2))
async def test_known_forms_are_answered_as_whole_requests(tmp_path, seed):
    """Goal: the same answers and the same faults, whichever way a request is taken."""
    known = await answers(tmp_path / "known", seed, by_forms=True)
    whole = await answers(tmp_path / "whole", seed, by_forms=False)
    assert known.kinds[KNOWN] > 200
    assert known.kinds[INFER] > 50
    assert whole.kinds[KNOWN] == 0
    assert known.told == whole.told
    assert {len(said) for said in known.told.values()} == {3, 5}  # faults and answers


async def test_requests_in_flight_are_cancelled(tmp_path):
    """Goal: a program that cancels is told so once, and nothing later, whichever way its request was taken."""
    write(tmp_path, "onnx", 1)
    for by_forms in (True, False):
        library = ProgramLibrary(by_forms=by_forms)
        async with despina.open_engine(tmp_path) as engine:
            pump = Pump(library, 1, engine)
            dice = random.Random(1)
            ones = [one for one in (taken(dice, number) for number in range(400)) if one[2] == "onnx"]
            for one in ones:
                library.push(one)
                library.cancel(one[0])
            while pump.take_burst():
                await trio.lowlevel.checkpoint()
            with trio.fail_after(60):
                await library.until_told(len(ones))
        assert not pump._known.leave()


def test_forms_are_none_for_models_that_are_not_there():
    """Goal: requests that the engine will refuse are taken whole, and get its words."""

    class Empty:
        def model(self, name, version):
            raise despina.NotFound(f"no model {name}")

    known = KnownRequests(None, 1, Empty(), None, None)
    assert known.form("m", -1, [], []) is None
