"""Heads of which most is remembered: what is read is always what reading the whole of them says."""

import json
import random

import pytest
from despina.schema import kserve_http
from despina.schema.fault import Fault
from despina.schema.kserve_http import decode_infer

IDS = ["", "7", "a b", "id:x", '","inputs":[]', "\\u0041", "ü", 7, None, "x" * 300]
ELEMENTS = [
    *([1, 2], [1.5, -0.0], [[1], [2]], [[1, 2]], [1e3, 2], [2**31, -1], [2**63, 1], [2**64, 1], [1e39, 1]),
    *([], [1], [1, 2, 3], [True, False], ["a", "b"], ["", "]"], ["[1]", "\\"], [None, 1], [{"a": 1}, 2], "12"),
]
PARAMETERS = [
    *({}, {"priority": 1}, {"priority": -1}, {"timeout": 5, "mine": "x:y"}, {"binary_data_output": True}),
    *({"sequence_id": 3, "sequence_start": True}, {"sequence_id": "s", "sequence_end": 1}, {"triton_x": 1}),
    *({"a": [1]}, {"a": {"b": 1}}, {"a": "}"}, {"a": '"'}, {"priority": 1.0}, {"a": 1.5, "b": False}, 5),
]
DATATYPES = ["INT32", "FP32", "UINT8", "INT64", "UINT64", "FP64", "BOOL", "BYTES", "FP16", "STRANGE"]


def outcome(text, tail):
    try:
        request, reply = decode_infer(text + tail, len(text), "m", -1)
    except Fault as fault:
        return type(fault), fault.message
    members = {name: getattr(request, name) for name in request.__slots__ if name not in ("template", "inputs")}
    inputs = {name: (one.datatype, one.shape, bytes(one.memory())) for name, one in request.inputs.items()}
    return repr((members, inputs, reply))


def head(dice, datatype):
    """One of few forms, with any id, parameters and elements, written in any way."""
    right = {"BYTES": ["a", "b"], "BOOL": [True, False]}.get(datatype, [1, dice.randrange(9)])
    elements = right if dice.random() < 0.6 else dice.choice(ELEMENTS)
    members = [
        ("inputs", [{"name": "A", "shape": [2], "datatype": datatype, "data": elements}]),
        ("outputs", [{"name": "B", "parameters": {"binary_data": True}}]),
    ]
    if dice.random() < 0.5:
        members[0][1].append(
            {"name": "C", "shape": [4], "datatype": "INT8", "parameters": {"binary_data_size": dice.choice((4, 4, 3))}}
        )
    if dice.random() < 0.7:
        members.insert(
            dice.choice((0, len(members))), ("parameters", dice.choice(PARAMETERS[: dice.choice((4, len(PARAMETERS)))]))
        )
    if dice.random() < 0.7:
        members.insert(dice.choice((0, 0, len(members))), ("id", dice.choice(IDS)))
    if dice.random() < 0.1:
        members.append(dice.choice(members))  # given twice
    comma, colon = dice.choice(((",", ":"), (", ", ": "), (" , ", " : ")))
    as_text = [f"{json.dumps(name)}{colon}{json.dumps(value, separators=(comma, colon))}" for name, value in members]
    text = ("{" + comma.join(as_text) + "}").encode()
    if dice.random() < 0.2:
        at = dice.randrange(len(text))
        piece = dice.choice((b"", b"\0", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"1", b"NaN", b"\xff", b" "))
        text = text[:at] + piece + text[at + dice.randrange(2) :]
    return text


@pytest.mark.interpreted
@pytest.mark.parametrize("datatype", DATATYPES)
def test_what_is_remembered_changes_nothing(monkeypatch, datatype):
    """Goal: the same request, form of the answer or fault as from a reader that knows nothing. Method: heads that
    differ in what is cut out, some of them damaged, one after the other, and each again with everything forgotten."""
    filled = []
    fill = kserve_http._filled

    def watched(*arguments):
        filled.append(fill(*arguments))
        return filled[-1]

    monkeypatch.setattr(kserve_http, "_filled", watched)
    dice = random.Random(datatype)
    heads = [(head(dice, datatype), dice.choice((b"", b"1234", b"1234"))) for _ in range(1500)]
    remembering = [outcome(*one) for one in heads]
    known = [one is not None for one in filled]
    if datatype not in ("FP16", "STRANGE"):
        assert known.count(True) > 20
        assert known.count(False) > 20
    for one, found in zip(heads, remembering, strict=True):
        kserve_http._frames.clear()
        assert outcome(*one) == found, one


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("parameters_first", [True, False])
def test_one_frame_serves_all(spaces, parameters_first):
    """Goal: heads that differ in id, parameters and numbers share what is remembered, wherever clients put them."""
    kserve_http._frames.clear()
    for number in range(50):
        given = {"parameters": {"priority": number, "tenant": f"t:{number}"}}
        inputs = {"inputs": [{"name": "a:0", "shape": [2], "datatype": "FP32", "data": [number, 0.5]}]}
        members = {"id": str(number)} | (given | inputs if parameters_first else inputs | given)
        text = json.dumps(members, separators=spaces).encode()
        request, _ = decode_infer(text, None, "m", -1)
        assert (request.id, request.priority, request.parameters) == (str(number), number, {"tenant": f"t:{number}"})
        assert request.inputs["a:0"].numpy().tolist() == [number, 0.5]
    assert len(kserve_http._frames) == 1


def test_memory_is_bounded():
    """Goal: whatever clients send, so many frames of so many bytes are kept and no more."""
    for size in (1, 1000, 3000):
        for number in range(1500):
            text = b'{"inputs":[],"outputs":[{"name":"%d%b"}]}' % (number, b"x" * size)
            decode_infer(text, len(text), "m", -1)
            assert len(kserve_http._frames) <= 1024
            assert sum(len(frame) for _, frame in kserve_http._frames) <= 256 * 1024
    kserve_http._frames.clear()


@pytest.mark.interpreted
@pytest.mark.parametrize("cut", ['"id":"z"', '"parameters":{"a":1}', '"id":"z","parameters":{"a":1}'])
def test_what_is_no_json_is_known_by_no_frame(cut):
    """Goal: what is left of a head when its beginning is cut out is no head, whatever was read before."""
    inputs = '"inputs":[{"name":"A","shape":[1],"datatype":"INT32","data":[1]}]}'
    refused = outcome(inputs.encode(), b"")
    assert isinstance(outcome(f"{{{cut},{inputs}".encode(), b"")[0], str)
    assert outcome(inputs.encode(), b"") == refused
