"""Forms of answers: doors have what they write of one at hand for the next of its form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ....schema.inference import ResponseTemplate

if TYPE_CHECKING:
    from ....engine.port.work import BackendJob
    from ....schema.inference import Parameter
    from .frames import Form, Message

FORMS_MAX: Final = 256
"""Of answers. Clients choose shapes."""


class AnswerForms:
    """Of one instance. For the trio thread."""

    def __init__(self) -> None:
        self._templates: dict[tuple[Form, ...], ResponseTemplate] = {}

    def answer(
        self, job: BackendJob, message: Message, start: int, stop: int, parameters: dict[str, Parameter] | None
    ) -> None:
        """Answers with those of the message's tensors."""
        forms = message.forms[start:stop]
        template = self._templates.get(forms) if parameters is None else None
        request = job.request
        if template is None:
            if parameters is not None or not forms or not all(form[3] for form in forms):
                job.respond(message.some_tensors(start, stop), parameters)
                return
            if len(self._templates) >= FORMS_MAX:
                self._templates.clear()
            described = [(name, datatype, shape) for name, datatype, shape, _ in forms]
            template = ResponseTemplate(request.model_name, job.version_text, described)
            self._templates[forms] = template
        job.response = template.response(request.id, message.wires[start:stop])
