"""Traffic that varies: what differs from one request of a row to the next, and what each must be answered.

A row is named after what varies; everything else stays as it is. Its questions are drawn once, many more than any memo
holds, and asked in that order over and over, each caller from a place of its own; the answers are computed here.
The doors' spelling of a question, and the check of an answer, are http_traffic.py's and grpc_traffic.py's.
"""

from __future__ import annotations

import random
import string
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from tests.bench.models import mlp_answers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

QUESTIONS = 4096
"""Of each row in which anything varies."""
MODELS = ("onnx_addsub", "onnx_mlp", "onnx_addsub2")
HEX = "0123456789abcdef"
TEXT = string.ascii_letters + string.digits + "-_.:"


@attrs.frozen
class Row:
    """One kind of traffic. `varies` names what does, in the words of `_question`."""

    name: str
    varies: frozenset[str] = frozenset()
    as_numbers: bool = False
    """Tensors in the text of the message and not as bytes: JSON, or gRPC's typed contents."""
    is_health: bool = False
    """No inference: is the server live?"""
    model: str = MODELS[0]
    """That is asked where it does not vary."""

    def questions(self) -> list[Question]:
        """All of them, the same for everybody who asks."""
        dice = random.Random(self.name)
        return [_question(self, dice, index) for index in range(QUESTIONS if self.varies else 1)]


@attrs.frozen
class Question:
    """One request, and what is right to answer."""

    model: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    """The right ones, of those that are asked for and in that order."""
    binary: Mapping[str, bool]
    """By output: whether it comes as bytes, where the protocol lets clients choose."""
    id: str = ""
    parameters: Mapping[str, Any] = {}
    headers: Sequence[tuple[str, str]] = ()
    """Beside those that every request has."""
    shuffle: int | None = None
    """Headers in an order, and with capitals, that this number chooses."""
    as_numbers: bool = False

    def complaint(self, answer: Mapping[str, np.ndarray], id: str, model: str) -> str | None:
        """What is wrong with an answer, or None."""
        if (id, model) != (self.id, self.model):
            return f"answer {id!r} of {model!r}, expected {self.id!r} of {self.model!r}"
        if answer.keys() != self.outputs.keys():
            return f"outputs {list(answer)}, expected {list(self.outputs)}"
        for name, expected in self.outputs.items():
            values = answer[name]
            if values.shape != expected.shape or not np.allclose(values, expected, rtol=1e-3, atol=2e-3):
                return f"output {name} of {self.model} is wrong"
        return None


EVERYTHING = frozenset({"values", "id", "numbers", "rows", "model", "headers", "outputs", "parameters"})


def known_rows() -> dict[str, Row]:
    """By name. The first is the one in which nothing varies."""
    rows = [
        Row("one request repeated"),
        Row("uuid as id", frozenset({"uuid"})),
        Row("ids of 1 to 64 characters", frozenset({"id"})),
        Row("batch of 1 to 8", frozenset({"values", "rows"})),
        Row("new traceparent", frozenset({"values", "traceparent"})),
        Row("three models in turn", frozenset({"values", "model"})),
        Row("requested outputs", frozenset({"outputs"})),
        Row("parameters", frozenset({"parameters"})),
        Row("numbers as text", frozenset({"values"}), as_numbers=True),
        Row("numbers as text, repeated", as_numbers=True),
        Row("everything at once", EVERYTHING),
        Row("health", is_health=True),
    ]
    return {row.name: row for row in rows}


def in_turn(asks: Sequence[Any], place: int, count: int) -> Iterator[Any]:
    """One after the other without end, for the caller that has this place among so many."""
    index = place * len(asks) // count
    while True:
        yield asks[index]
        index = (index + 1) % len(asks)


def _question(row: Row, dice: random.Random, index: int) -> Question:
    varies = row.varies
    model = MODELS[index % 3] if "model" in varies else row.model
    rows = dice.randint(1, 8) if "rows" in varies else 1
    values = np.random.default_rng(dice.randrange(1 << 30) if "values" in varies else 7)
    if model == "onnx_mlp":
        inputs = {"x": values.standard_normal((rows, 256)).astype(np.float32)}
        found = {"y": mlp_answers(inputs["x"])}
    else:
        left, right = values.integers(-99999, 999999, (2, rows, 16)).astype(np.int32)
        inputs = {"INPUT0": left, "INPUT1": right}
        found = {"OUTPUT0": left + right, "OUTPUT1": left - right}
    as_numbers = row.as_numbers or ("numbers" in varies and model != "onnx_mlp" and dice.random() < 0.25)
    names = list(found)
    binary = dict.fromkeys(names, not as_numbers)
    if "outputs" in varies and len(names) == 2:
        names = dice.choice(([names[0]], [names[1]], names, names[::-1]))
        binary = {name: dice.random() < 0.6 for name in names}
    return Question(
        model,
        inputs,
        {name: found[name] for name in names},
        binary,
        id=_id(varies, dice),
        parameters=_parameters(dice) if "parameters" in varies else {},
        headers=_headers(varies, dice),
        shuffle=dice.randrange(1 << 30) if "headers" in varies else None,
        as_numbers=as_numbers,
    )


def _id(varies: frozenset[str], dice: random.Random) -> str:
    if "uuid" in varies:
        return "-".join(_drawn(dice, HEX, size) for size in (8, 4, 4, 4, 12))
    return _drawn(dice, TEXT, dice.randint(1, 64)) if "id" in varies else ""


def _parameters(dice: random.Random) -> dict[str, Any]:
    """Each of them there or not."""
    drawn = {
        "priority": dice.randrange(3),
        "timeout": dice.randrange(5_000_000, 15_000_000),
        "tenant": _drawn(dice, TEXT, dice.randint(3, 23)),
        "debug": dice.random() < 0.5,
    }
    return {name: value for name, value in drawn.items() if dice.random() < (0.5 if name == "debug" else 0.7)}


def _headers(varies: frozenset[str], dice: random.Random) -> list[tuple[str, str]]:
    if not varies & {"traceparent", "headers"}:
        return []
    trace = f"00-{_drawn(dice, HEX, 32)}-{_drawn(dice, HEX, 16)}-0{dice.randrange(2)}"
    headers = [("traceparent", trace)]
    if "headers" in varies:
        agent = f"client/{dice.randrange(7)}.{dice.randrange(13)} ({'x' * dice.randrange(30)})"
        headers += [("x-request-id", _drawn(dice, HEX, 16)), ("user-agent", agent), ("accept", "*/*")]
    return headers


def _drawn(dice: random.Random, alphabet: str, size: int) -> str:
    return "".join(dice.choices(alphabet, k=size))
