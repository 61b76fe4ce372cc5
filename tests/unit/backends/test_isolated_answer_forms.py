"""Forms of the answers of a model's own process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from despina.backends.python.isolated import answer_forms
from despina.backends.python.isolated.answer_forms import AnswerForms
from despina.backends.python.isolated.frames import Message
from despina.engine.request.job import Job
from despina.schema.inference import InferenceRequest


def said(*outputs):
    """What a process says of outputs, each a name, a shape and bytes."""
    forms = tuple((name, "UINT8", shape, len(wire)) for name, shape, wire in outputs)
    return Message("executed", (), forms, [wire for _, _, wire in outputs])


def answered(forms, message, start, stop, parameters=None, id=""):
    job = Job(InferenceRequest("m", {}, id=id), None)
    job.ledger = SimpleNamespace(version_text="3")
    forms.answer(job, message, start, stop, parameters)
    assert job.fault is None
    return job.response


def contents(response):
    return [(one.name, one.datatype, one.shape, bytes(one.memory())) for one in response.outputs]


def test_answers_that_are_alike_share_a_template():
    """Goal: each job of a batch has its own tensors, its id, and the template of its form."""
    forms = AnswerForms()
    message = said(("A", (1,), b"a"), ("B", (2,), b"bb"), ("A", (1,), b"c"), ("B", (2,), b"dd"))
    first, second = answered(forms, message, 0, 2), answered(forms, message, 2, 4, id="7")
    assert first.template is second.template is not None
    assert contents(first) == [("A", "UINT8", (1,), b"a"), ("B", "UINT8", (2,), b"bb")]
    assert contents(second) == [("A", "UINT8", (1,), b"c"), ("B", "UINT8", (2,), b"dd")]
    assert (second.model_name, second.model_version, second.id) == ("m", "3", "7")
    other = answered(forms, said(("A", (1,), b"a"), ("B", (1, 2), b"bb")), 0, 2)
    assert other.template is not first.template


@pytest.mark.parametrize(
    ("message", "parameters"), [(said(), None), (said(("A", (0,), b"")), None), (said(("A", (1,), b"a")), {"p": 1})]
)
def test_answers_of_no_common_form(message, parameters):
    """Goal: parameters stay, and what has no bytes is written as before."""
    response = answered(AnswerForms(), message, 0, len(message.forms), parameters)
    assert response.template is None
    assert response.parameters == parameters
    assert contents(response) == [(name, "UINT8", shape, b"a"[:size]) for name, _, shape, size in message.forms]


@pytest.mark.interpreted
def test_clients_who_choose_shapes(monkeypatch):
    """Goal: what is remembered of answers has a bound, and those beyond it are right."""
    monkeypatch.setattr(answer_forms, "FORMS_MAX", 4)
    forms = AnswerForms()
    for size in range(1, 20):
        assert contents(answered(forms, said(("A", (size,), bytes(size))), 0, 1)) == [
            ("A", "UINT8", (size,), bytes(size))
        ]
        assert len(forms._templates) <= 4
