"""Sequences of requests to ONNX and Python models, once on connections that live on and once the long way.

Short: two connections for each door serve the whole sequence, and everything that is remembered stays. Long: each
request has a connection of its own, doors and codecs have forgotten what they read before, and gRPC calls are taken
frame by frame and decoded as messages. Each way has an engine, and both must answer the same bytes, whatever came
between: other models and forms, refusals, models that came and went.
"""

import json
import random

import attrs
import numpy as np
import onnx
import pytest
import trio
from despina.schema import kserve_http
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

from tests import in_process
from tests.doors import both_doors
from tests.repeated_calls import INFER, forget_heads, forget_texts, frame_by_frame, watched_memory

MODELS = ("onnx", "onnx_single", "python", "text")
CONFIG = """
backend: "{backend}" max_batch_size: {rows}
input {{ name: "A" data_type: TYPE_{kind} dims: [ {dims} ] }}
input {{ name: "B" data_type: TYPE_{kind} dims: [ {dims} ] }}
output {{ name: "SUM" data_type: TYPE_{kind} dims: [ {dims} ] }}
output {{ name: "OTHER" data_type: TYPE_{kind} dims: [ {dims} ] }}
instance_group [ {{ kind: KIND_CPU }} ]
{more}
"""
PYTHON = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            a, b = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in "AB")
            outputs = [pb_utils.Tensor("SUM", {sum}), pb_utils.Tensor("OTHER", {other})]
            wanted = request.requested_output_names()
            answers.append(pb_utils.InferenceResponse([one for one in outputs if one.name() in wanted]))
        return answers
"""


def write(root, name, load):
    """Writes the model as its load number `load` finds it: each answers with other numbers than the one before."""
    path = root / name
    (path / "1").mkdir(parents=True, exist_ok=True)
    numbers = {"kind": "INT32", "dims": "8", "more": f'parameters {{ key: "load" value {{ string_value: "{load}" }} }}'}
    if name in ("python", "text"):
        values = {"sum": f"a + b + np.int32({load})", "other": "a - b"}
        if name == "text":
            numbers |= {"kind": "STRING", "dims": "-1"}
            values = {"sum": f"np.array([[b'{load}' + x for x in row] for row in a], object)", "other": "b"}
        (path / "1" / "model.py").write_text(PYTHON.format(**values))
        (path / "config.pbtxt").write_text(CONFIG.format(backend="python", rows=4, **numbers))
        return
    numbers["more"] += "" if name == "onnx_single" else "\ndynamic_batching { }"
    extra = helper.make_tensor("K", TensorProto.INT32, [1], [load])
    nodes = [
        helper.make_node("Add", ["A", "B"], ["both"]),
        helper.make_node("Add", ["both", "K"], ["SUM"]),
        helper.make_node("Sub", ["A", "B"], ["OTHER"]),
    ]
    ends = [
        [helper.make_tensor_value_info(one, TensorProto.INT32, ["rows", 8]) for one in names]
        for names in (("A", "B"), ("SUM", "OTHER"))
    ]
    graph = helper.make_graph(nodes, "g", *ends, [extra])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        path / "1" / "model.onnx",
    )
    (path / "config.pbtxt").write_text(CONFIG.format(backend="onnxruntime", rows=4, **numbers))


@attrs.frozen
class Form:
    """What requests have in common."""

    door: str
    model: str
    rows: int
    id: str
    outputs: tuple[str, ...]
    classes: int
    """Of the first output that is asked for by name; 0 for its numbers."""
    parameters: tuple[tuple[str, int], ...]
    binary: bool
    """For HTTP: tensors as bytes, both ways."""


@attrs.frozen
class Ask:
    """One request, on one of the two connections of its door."""

    form: Form
    seed: int
    connection: int


@attrs.frozen
class Load:
    """A command to the repository: load number `number` of the model, or 0 to unload it."""

    model: str
    number: int


def sequence(seed, length):
    """Steps: a tuple of requests to be in flight at once, or a command."""
    dice = random.Random(seed)
    steps, loads, number = [], dict.fromkeys(MODELS, 1), 0

    def form():
        return Form(
            door=dice.choice(("http", "grpc")),
            model=dice.choice(MODELS),
            rows=dice.choice((1, 1, 1, 2, 3, 5)),  # five are too many
            id=dice.choice(("", "", "7", "lang-ä", 'quo"te')),
            outputs=dice.choice(((), (), (), ("SUM",), ("OTHER", "SUM"), ("NONE",))),
            classes=dice.choice((0, 0, 0, 2)),
            parameters=dice.choice(((), (), (), (("priority", 0),), (("mine", 3),))),
            binary=dice.random() < 0.8,
        )

    def ask(which):
        nonlocal number
        number += 1
        return Ask(which, number, dice.randrange(2) if dice.random() < 0.2 else 0)

    forms = [form() for _ in range(5)]
    while len(steps) < length:
        if dice.random() < 0.3:
            forms[dice.randrange(len(forms))] = form()
        one, other = dice.choice(forms), dice.choice(forms)
        match dice.randrange(8):
            case 0:
                model = dice.choice(MODELS)
                if dice.random() < 0.3:
                    steps.append(Load(model, 0))
                    steps += [(ask(one),), (ask(other),)]
                loads[model] += 1
                steps.append(Load(model, loads[model]))
            case 1:
                for _ in range(4):
                    steps += [(ask(one),), (ask(other),)]
            case 2:
                numbered = attrs.evolve(one, id="")
                for index in range(4):
                    steps.append((ask(attrs.evolve(numbered, id=str(index))),))
            case 3:
                for _ in range(3):
                    # On four connections, for one has one request at a time.
                    asks = [attrs.evolve(ask(dice.choice(forms)), connection=place) for place in (0, 1, 0, 1)]
                    doors = [
                        attrs.evolve(asks[place].form, door=door)
                        for place, door in enumerate(("http", "http", "grpc", "grpc"))
                    ]
                    steps.append(tuple(attrs.evolve(one, form=form) for one, form in zip(asks, doors, strict=True)))
            case _:
                steps += [(ask(one),) for _ in range(dice.randint(2, 6))]
    return steps


def tensors(asked):
    """Arrays for A and B and their bytes."""
    form, dice = asked.form, np.random.default_rng(asked.seed)
    if form.model != "text":
        arrays = [dice.integers(-1000, 1000, (form.rows, 8), np.int32) for _ in range(2)]
        return [(array.shape, array.ravel().tolist(), array.tobytes()) for array in arrays]
    found = []
    for _ in range(2):
        items = [f"{asked.seed % 90 + 10}.{index}" for index in range(form.rows * 3)]  # all as long
        data = b"".join(len(item).to_bytes(4, "little") + item.encode() for item in items)
        found.append(((form.rows, 3), items, data))
    return found


def over_http(asked):
    """Path, body and header lines."""
    form, inputs, tail = asked.form, [], b""
    kind = "BYTES" if form.model == "text" else "INT32"
    for name, (shape, items, data) in zip("AB", tensors(asked), strict=True):
        entry = {"name": name, "shape": list(shape), "datatype": kind}
        if form.binary:
            entry["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            entry["data"] = items
        inputs.append(entry)
    head = {"id": form.id} if form.id else {}
    head |= {"inputs": inputs, "parameters": {"binary_data_output": form.binary, **dict(form.parameters)}}
    if form.outputs:
        head["outputs"] = [
            {
                "name": name,
                "parameters": {"classification": form.classes} if form.classes else {"binary_data": form.binary},
            }
            for name in form.outputs
        ]
    text = json.dumps(head, ensure_ascii=form.id == "lang-ä").encode()
    fields = f"Inference-Header-Content-Length: {len(text)}\r\n" if form.binary else ""
    return f"/v2/models/{form.model}/infer", text + tail, fields


def over_grpc(asked):
    form = asked.form
    message = service_pb2.ModelInferRequest(model_name=form.model, id=form.id)
    for name, (shape, _, data) in zip("AB", tensors(asked), strict=True):
        message.inputs.add(name=name, datatype="BYTES" if form.model == "text" else "INT32", shape=list(shape))
        message.raw_input_contents.append(data)
    for name in form.outputs:
        wanted = message.outputs.add(name=name)
        if form.classes:
            wanted.parameters["classification"].int64_param = form.classes
    for name, value in form.parameters:
        message.parameters[name].int64_param = value
    return INFER, message.SerializeToString()


class Way:
    """Asks for everything in a sequence."""

    def __init__(self, doors, root, *, is_short):
        self.doors = doors
        self.root = root
        self.is_short = is_short
        self.callers = {}

    async def run(self, steps):
        """The answers, step by step."""
        found = []
        for step in steps:
            if isinstance(step, Load):
                await self.obey(step)
                continue
            answers = [None] * len(step)
            async with trio.open_nursery() as nursery:
                for place, asked in enumerate(step):
                    nursery.start_soon(self.ask, asked, answers, place)
            found.append(answers)
        return found

    async def obey(self, step):
        if not step.number:
            await self.doors.engine.unload(step.model)
            return
        write(self.root, step.model, step.number)
        await self.doors.engine.load(step.model)

    async def ask(self, asked, answers, place):
        door = asked.form.door
        caller = self.callers.get((door, asked.connection))
        if caller is None:
            caller = await (self.doors.http_caller() if door == "http" else self.doors.grpc_caller())
        if self.is_short:
            self.callers[door, asked.connection] = caller
        else:
            forget_texts()
            forget_heads(self.doors.http)
        answers[place] = await caller.ask(*(over_http(asked) if door == "http" else over_grpc(asked)))
        if not self.is_short:
            await caller.stream.aclose()


def watched_frames(monkeypatch):
    """A list that grows with each HTTP request that is made of a frame and what was cut out of its head."""
    made = []
    fill = kserve_http._filled

    def watched(known, request, parameters, elements, *others):
        reply = fill(known, request, parameters, elements, *others)
        if reply is not None:
            made.append((parameters is not None, len(elements) > 0))
        return reply

    monkeypatch.setattr(kserve_http, "_filled", watched)
    return made


@pytest.mark.interpreted
@pytest.mark.parametrize("seed", range(4))
async def test_short_ways_answer_what_the_long_way_does(tmp_path, monkeypatch, seed):
    """Goal: the same bytes, head and body, for every request of a long and mixed sequence."""
    steps = sequence(seed, 300)
    uses = watched_memory(monkeypatch)
    framed = watched_frames(monkeypatch)
    found = {}
    for is_short in (True, False):
        root = tmp_path / str(is_short)
        for model in MODELS:
            write(root, model, 1)
        async with both_doors(
            root, backend_config=in_process.SETTING, model_control_mode="explicit", load_model=MODELS
        ) as doors:
            with trio.fail_after(60):
                found[is_short] = await Way(doors, root, is_short=is_short).run(steps)
            heads = len(doors.http._listener.heads._heads)
        if is_short:
            assert min(map(uses.count, ("known", "frame", "form", "call", "plain"))) >= 10
            assert min(map(framed.count, ((True, False), (True, True), (False, False)))) >= 1
            assert heads > 10
            framed.clear()
            uses.clear()
            frame_by_frame(monkeypatch)
    assert set(uses) <= {"known", "frame", "form"}
    assert max(map(uses.count, ("known", "frame", "form"))) < 30  # of those that were in flight together
    assert heads <= 2
    asked = [step for step in steps if not isinstance(step, Load)]
    for step, short, long in zip(asked, found[True], found[False], strict=True):
        assert short == long, step
    kinds = {
        answer[0][:12] if isinstance(answer[1], bytes) else answer[1]["grpc-status"]
        for one in found[True]
        for answer in one
    }
    assert {b"HTTP/1.1 200", b"HTTP/1.1 400", "0", "3"} <= kinds
