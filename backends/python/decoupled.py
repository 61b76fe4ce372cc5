"""Requests and senders of decoupled models, and the loop on which their coroutines go on after `execute`.

A model may keep a sender for as long as it likes and use it from any thread. What ends a request is the final flag; a
sender that goes away without it (the model has forgotten the request) ends it with an error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ...schema.fault import ModelFailure
from .error import TritonModelException
from .request import ReceivedRequest
from .response import InferenceResponseSender, checked

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...engine.port.work import BackendStream

_log = logging.getLogger("despina.backends.python")


class DecoupledRequest(ReceivedRequest):
    """A request to a decoupled model. Its sender is made at once, so that dropping both of them is noticed."""

    __slots__ = ()

    def __init__(self, job: BackendStream, output_names: Collection[str], instance_name: str) -> None:
        super().__init__(job, output_names)
        self.outlives_execute = True
        self._sender = DecoupledSender(job, output_names, self.received, instance_name)


class DecoupledSender(InferenceResponseSender):
    """Sends any number of responses, from any thread. `send` waits while the client does not read."""

    __slots__ = ("_instance_name", "_job", "_received")

    def __init__(  # does not call super: a reference to the request would be a cycle, and its end not be noticed
        self, job: BackendStream, output_names: Collection[str], received: dict[str, Any], instance_name: str
    ) -> None:
        self._job = job
        self._output_names = output_names
        self._received = received
        self._instance_name = instance_name
        self._closed = False
        self.may_go = False

    def send(self, response: object = None, flags: object = 0) -> None:
        """Raises TritonModelException after the final flag and for what is no response or flag.

        Once the client has left, responses are dropped without a word: ask `is_cancelled` to stop early.
        """
        given, final = checked(response, flags)
        if self._closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        self._closed = final
        if given is None:
            self._job.send(None, final=True)
        else:
            given.stream(self._job, self._received, self._output_names, final=final)

    def is_cancelled(self) -> bool:
        return self._job.is_cancelled()

    def __del__(self) -> None:
        job = self._job
        if self._closed or self.may_go or job.is_closed:
            return
        if not job.has_left():
            _log.error(
                "model instance '%s': the response sender of a request was dropped without the final flag",
                self._instance_name,
            )
        job.close(
            ModelFailure(
                f"Failed to process the request(s) for model '{self._instance_name}', message: the response sender was "
                "dropped without the final flag"
            )
        )
