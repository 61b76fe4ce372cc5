"""Feeds random requests of C programs to the pump, by their forms and, beside it, whole.

    python fuzz/fuzz_capi.py [--seconds 60] [--seed 1]

Both must tell the program the same of each request: names, shapes and bytes are any, and some say more than a form has.
The queue's part, which is C++ and finds the forms, is played by tests/program_library.py. A failure ends the run; the
request is printed as a Python literal.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

from despina.frontends.capi.known import Form, KnownRequests
from despina.frontends.capi.pump import Pump
from despina.schema.datatype import TABLE

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.echo import EchoEngine, Entered
from fuzz.span import span
from tests.program_library import PLAIN, ProgramLibrary

WAYS = {
    "forms": (KnownRequests, "form"),
    "requests of known forms": (Form, "request"),
}
MORE = ({"mine": 3}, 1, 7, 2, 1000, 0)
"""What a request may say behind its outputs, instead of PLAIN's."""
FORMS = 4
"""In use at a time."""


class Inline:
    """Stands for the engine's runner of what executes at once: here, everything does."""

    def begin_pass(self) -> None: ...

    def end_pass(self) -> None: ...


def random_form(dice: random.Random) -> tuple[Any, ...]:
    """Model, version, and inputs without bytes, outputs."""
    inputs = []
    for _ in range(dice.choice((0, 1, 1, 2, 3))):
        shape = tuple(dice.choice((-1, 0, 1, 1, 2, 2**40)) for _ in range(dice.randrange(4)))
        inputs.append((dice.choice(("A", "B", "", "ä" * 40)), dice.choice(TABLE).name, shape))
    return dice.choice(("m", "n", "")), dice.choice((-1, 1)), inputs, dice.choice(((), ("A",), ("B", "B")))


def random_request(dice: random.Random, number: int, form: tuple[Any, ...]) -> tuple[Any, ...]:
    """One of that form, mostly."""
    model, version, described, outputs = form
    is_raw = dice.random() < 0.03
    inputs = tuple((*one, dice.randbytes(dice.choice((0, 1, 2, 8, 9, 300))), is_raw) for one in described)
    more = [other if dice.random() < 0.03 else none for none, other in zip(PLAIN, MORE, strict=True)]
    return number, number, model, version, dice.choice(("", f"{number}", "ü")), inputs, outputs, *more


def pump_of(library: ProgramLibrary) -> Pump:
    engine = EchoEngine()
    engine.inline = Inline()
    return Pump(library, 1, engine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    libraries = [ProgramLibrary(by_forms=by_forms) for by_forms in (True, False)]
    pumps = [pump_of(library) for library in libraries]
    entered = Entered()
    entered.watch(WAYS)
    forms = [random_form(dice) for _ in range(FORMS)]
    number = 0
    for _ in span(arguments.seconds, lambda: entered.all_of(WAYS)):
        forms[dice.randrange(FORMS)] = random_form(dice)
        burst = []
        for _ in range(dice.randrange(1, 60)):
            number += 1
            burst.append(random_request(dice, number, dice.choice(forms)))
        for library, pump in zip(libraries, pumps, strict=True):
            for request in burst:
                library.push(request)
            while pump.take_burst():
                pass
        for request in burst:
            known, whole = (library.told.pop(request[1]) for library in libraries)
            assert known == whole, f"seed {arguments.seed}: {request!r} was told {known!r}, and {whole!r} taken whole"
        if dice.random() < 0.1:
            libraries[0].forget_forms()
    print(f"{number} requests, no difference")
    entered.check(WAYS)


if __name__ == "__main__":
    main()
